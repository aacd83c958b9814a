package egress

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/harness"
)

// What a sandbox did under open rules becomes the rules under which another may do just that.
func TestLearn(t *testing.T) {
	t.Parallel()
	const name = "h176.good.test"
	attempts := []probe{overTLS(name, name), get("h177.shop.test"), datagram("h178.shop.test", portUDP), get(g(184)), lookUp("nothing.good.test")}
	learning := shared.create(t, nil)
	learning.try(append(attempts, get("10.99.0.9"))...)
	learning.checkLog([]row{{what: "while learning", log: []logEntry{
		connection("tls", "allowed", "", name, h(176), 443), connection("http", "allowed", "", "h177.shop.test", h(177), 80),
		connection("udp", "allowed", "", "h178.shop.test", h(178), portUDP), connection("http", "allowed", "", "", g(184), 80),
	}}})
	cmd := exec.Command(harness.Binary, "sandbox", "network", learning.id, "--suggest", "--json")
	cmd.Env = append(os.Environ(), "SUPERSERVE_BASE_URL="+shared.URL, "SUPERSERVE_API_KEY="+harness.Key)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var learned client.Network
	if err := json.Unmarshal(out, &learned); err != nil {
		t.Fatal(err)
	}
	slices.Sort(learned.AllowOut)
	if want := []string{g(184), name, "h177.shop.test", "h178.shop.test"}; !slices.Equal(learned.AllowOut, want) {
		t.Errorf("suggested: %q, want %q", learned.AllowOut, want)
	}
	b := shared.create(t, &learned)
	outcomes := b.try(append(attempts, get("h179.shop.test"), get(g(185)))...)
	for i, want := range []string{"ok", "ok", "ok", "ok", "no", "no", "re"} {
		if outcomes[i][:2] != want {
			t.Errorf("under the suggested rules, attempt %d: %s", i, outcomes[i])
		}
	}
	nothingAt(t, g(185), h(179), "10.99.0.9")
}
