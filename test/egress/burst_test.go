package egress

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

//go:embed burst.py
var burstProgram []byte

// Ten thousand connections at once: each one ends, none is missing in the log, and others notice nothing.
func TestBurst(t *testing.T) {
	const number = 10000
	b, other := shared.create(t, nil), shared.create(t, nil)
	b.write("/burst.py", burstProgram)
	other.hammer("tcp", h(171))
	other.awaitTry("tcp", h(171), true, time.Time{})
	began := time.Now()
	var ends map[string]int
	if err := json.Unmarshal([]byte(b.sh(fmt.Sprintf("python3 /burst.py %d %s", number, h(170)))), &ends); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v in %v", ends, time.Since(began))
	if ended := ends["echoed"] + ends["refused"] + ends["reset"]; ended != number {
		t.Errorf("%d connections of %d came to an end: %v", ended, number, ends)
	}
	if ends["echoed"] < 1000 {
		t.Errorf("only %d connections were served", ends["echoed"])
	}
	for _, one := range other.hammered() {
		if one.result != "ok" {
			t.Errorf("another sandbox's connection meanwhile: %s", one.result)
			break
		}
	}
	eventually(t, 10*time.Second, func() error {
		if n := net0.open(addr(h(170))); n > 0 {
			return fmt.Errorf("%d connections are still open", n)
		}
		return nil
	})
	eventually(t, 20*time.Second, func() error {
		rows, err := b.log()
		if err != nil {
			return err
		}
		logged := map[string]int64{}
		for _, e := range rows {
			if e.DstIP == h(170) || e.DstIP == "" { // what was only counted has no address
				logged[e.Verdict] += e.times()
			}
		}
		if logged["allowed"] != int64(ends["echoed"]) || logged["blocked"] != number-int64(ends["echoed"]) {
			return fmt.Errorf("the log has, in %d rows, %v", len(rows), logged)
		}
		return nil
	})
}

// Ten thousand connections one after the other, as a package manager or a test suite might make them: all are served.
func TestManyShortConnections(t *testing.T) {
	b := shared.create(t, nil)
	got := b.sh(`python3 - <<'P'
import socket
from concurrent.futures import ThreadPoolExecutor
def once(i):
    try:
        with socket.create_connection(("` + h(172) + `", 7), 10) as s:
            s.sendall(b"x")
            return s.recv(1) == b"x"
    except OSError:
        return False
with ThreadPoolExecutor(16) as pool:
    print(sum(pool.map(once, range(10000))))
P`)
	if got != "10000" {
		t.Errorf("%s of 10000 connections were served", got)
	}
}
