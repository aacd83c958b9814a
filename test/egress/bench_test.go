package egress

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

//go:embed bench.py
var benchProgram []byte

// measured is one run of bench.py, or the medians of several.
type measured struct {
	Connect   float64 `json:"connect"`   // median time until connected, ms
	Exchange  float64 `json:"exchange"`  // median time until a byte came back, ms
	Exchanges float64 `json:"exchanges"` // of all connections together, ms
	Down      float64 `json:"down"`      // one stream, MiB/s
	Up        float64 `json:"up"`
}

// BenchmarkProxy compares the way through the proxy with plain NAT, from the same sandbox in the same run, by turns:
//
//	make bench-egress
func BenchmarkProxy(b *testing.B) {
	const rounds, connections, mebibytes = 7, 1000, 256
	proxied, plain := h(190), h(191)
	if err := bypassProxy(plain); err != nil {
		b.Fatal(err)
	}
	box := shared.create(b, nil)
	box.write("/bench.py", benchProgram)
	run := func(to string, n int) (m measured) {
		out := box.sh(fmt.Sprintf("python3 /bench.py %s %d %d", to, n, mebibytes))
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			b.Fatal(err)
		}
		return m
	}
	for _, to := range []string{proxied, plain} { // what is only slow the first time
		run(to, 10)
	}
	for b.Loop() {
		var through, past []measured
		for range rounds {
			through, past = append(through, run(proxied, connections)), append(past, run(plain, connections))
		}
		report(b, medians(through), medians(past))
	}
	rows, err := box.log()
	if err != nil {
		b.Fatal(err)
	}
	if slices.ContainsFunc(rows, func(e logEntry) bool { return e.DstIP == plain }) {
		b.Error("what should have gone past the proxy went through it")
	}
}

func report(b *testing.B, proxy, nat measured) {
	b.Logf("                          proxy       NAT")
	b.Logf("connect              %7.3f ms %7.3f ms", proxy.Connect, nat.Connect)
	b.Logf("connect and a byte   %7.3f ms %7.3f ms", proxy.Exchange, nat.Exchange)
	b.Logf("1000 of them         %7.0f ms %7.0f ms", proxy.Exchanges, nat.Exchanges)
	b.Logf("down, one stream     %5.0f MiB/s %5.0f MiB/s", proxy.Down, nat.Down)
	b.Logf("up, one stream       %5.0f MiB/s %5.0f MiB/s", proxy.Up, nat.Up)
	b.ReportMetric(proxy.Down/nat.Down, "down-ratio")
	b.ReportMetric(proxy.Up/nat.Up, "up-ratio")
	b.ReportMetric(proxy.Connect-nat.Connect, "added-ms/connect")
	b.ReportMetric(proxy.Exchange-nat.Exchange, "added-ms/first-byte")
	b.ReportMetric(proxy.Exchanges/nat.Exchanges, "1000-connections-ratio")
}

func medians(all []measured) measured {
	of := func(field func(measured) float64) float64 {
		var values []float64
		for _, m := range all {
			values = append(values, field(m))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return measured{
		Connect: of(func(m measured) float64 { return m.Connect }), Exchange: of(func(m measured) float64 { return m.Exchange }),
		Exchanges: of(func(m measured) float64 { return m.Exchanges }),
		Down:      of(func(m measured) float64 { return m.Down }), Up: of(func(m measured) float64 { return m.Up }),
	}
}

// bypassProxy makes connections to one address go past the proxy: the redirecting chain is not asked when one before it
// has said where a connection goes, which here is where it was going anyway; and the server's rules, which forward no TCP,
// get two more that do.
func bypassProxy(to string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	ip := addr(to).As4()
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "bench"})
	before := *nftables.ChainPriorityNATDest - 90
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "past", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: &before,
	})
	const source, destination = 12, 16 // offsets in the header
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(isTCP(ip, destination),
		&expr.Immediate{Register: 1, Data: ip[:]},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1})})
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		offset, forwards := map[string]uint32{"forward_from": destination, "forward_to": source}[c.Name]
		if forwards {
			conn.InsertRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: append(isTCP(ip, offset), &expr.Verdict{Kind: expr.VerdictAccept})})
		}
	}
	return conn.Flush()
}

func isTCP(ip [4]byte, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip[:]},
	}
}
