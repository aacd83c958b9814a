package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// upstreamTimeout is how long one server may take before the next is asked.
const upstreamTimeout = 2 * time.Second

// upstreams are the DNS servers the resolver asks.
type upstreams struct {
	fixed []string // host:port; empty: those in the file
	path  string

	mu      sync.Mutex
	checked time.Time
	read    os.FileInfo // the file as it was when it was read
	current []string
}

func newUpstreams(fixed []string, path string) (*upstreams, error) {
	servers, err := parseServers(fixed)
	return &upstreams{fixed: servers, path: path}, err
}

// parseServers reads addresses with or without a port.
func parseServers(list []string) ([]string, error) {
	var servers []string
	for _, s := range list {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			servers = append(servers, ap.String())
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("the DNS server %q is neither an address nor address:port", s)
		}
		servers = append(servers, net.JoinHostPort(a.String(), "53"))
	}
	return servers, nil
}

// servers gives the servers to ask, in order. The file is looked at again once a second.
func (u *upstreams) servers() ([]string, error) {
	if len(u.fixed) > 0 {
		return u.fixed, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.checked) < time.Second {
		return u.current, nil
	}
	info, err := os.Stat(u.path)
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	u.checked = time.Now()
	if u.read != nil && os.SameFile(info, u.read) && info.ModTime().Equal(u.read.ModTime()) && info.Size() == u.read.Size() {
		return u.current, nil
	}
	conf, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	u.read, u.current = info, nil
	for _, s := range conf.Servers {
		u.current = append(u.current, net.JoinHostPort(s, conf.Port))
	}
	return u.current, nil
}

// upstreamQuery builds what is sent on for a slot's query: nothing of the original but the question and two flags.
func upstreamQuery(req *dns.Msg) *dns.Msg {
	q := new(dns.Msg)
	q.Id = dns.Id()
	q.RecursionDesired = true
	q.CheckingDisabled = req.CheckingDisabled
	q.Question = []dns.Question{req.Question[0]}
	opt := req.IsEdns0()
	q.SetEdns0(udpSize, opt != nil && opt.Do())
	return q
}

// exchange asks one server after the other until one gives a useful answer. A refusal or failure is passed on only
// when no other server does better.
func (u *upstreams) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	servers, err := u.servers()
	if err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		return nil, errors.New("no DNS server is configured")
	}
	var poor *dns.Msg
	for _, server := range servers {
		reply, askErr := ask(ctx, q, server)
		switch {
		case askErr != nil:
			err = errors.Join(err, askErr)
		case reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError:
			return reply, nil
		case poor == nil:
			poor = reply
		}
		if ctx.Err() != nil {
			break
		}
	}
	if poor != nil {
		return poor, nil
	}
	return nil, err
}

// ask sends a query by UDP and, when the answer does not fit, by TCP.
func ask(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	reply, err := askBy(ctx, "udp", q, server)
	if err == nil && reply.Truncated {
		return askBy(ctx, "tcp", q, server)
	}
	return reply, err
}

func askBy(ctx context.Context, network string, q *dns.Msg, server string) (*dns.Msg, error) {
	client := &dns.Client{Net: network, Timeout: upstreamTimeout, UDPSize: udpSize}
	reply, _, err := client.ExchangeContext(ctx, q, server)
	if err != nil {
		return nil, fmt.Errorf("asking the DNS server %s: %w", server, err)
	}
	if len(reply.Question) != 1 || !sameQuestion(reply.Question[0], q.Question[0]) {
		return nil, fmt.Errorf("the DNS server %s answered another question", server)
	}
	return reply, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
