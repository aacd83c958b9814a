package egress

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// The two limits an operator can set: tracked connections, each refused one shown in the log, and bandwidth.
func TestLimits(t *testing.T) {
	s := another(t, map[string]string{"NETWORK_CONNECTIONS": "64", "NETWORK_BANDWIDTH": "40"})
	b := s.create(t, nil)
	b.write("/burst.py", burstProgram)
	var ends map[string]int
	if err := json.Unmarshal([]byte(b.sh("python3 /burst.py 300 "+h(173))), &ends); err != nil {
		t.Fatal(err)
	}
	if ends["echoed"] > 64 || ends["echoed"] < 32 || ends["echoed"]+ends["refused"] != 300 {
		t.Errorf("of 300 connections at once under a limit of 64: %v", ends)
	}
	eventually(t, 15*time.Second, func() error {
		rows, err := b.log()
		if err != nil {
			return err
		}
		counts := map[string]int64{}
		for _, e := range rows {
			if e.DstIP == h(173) || e.DstIP == "" { // what was only counted has no address
				counts[e.Verdict] += e.times()
			}
		}
		if counts["allowed"] != int64(ends["echoed"]) || counts["blocked"] != int64(ends["refused"]) {
			return fmt.Errorf("the log has %v, of %v", counts, ends)
		}
		return nil
	})
	b.checkLog([]row{{what: "over the limit", log: []logEntry{connection("tcp", "blocked", "limit: 64 tracked connections", "", h(173), portEcho)}}})

	// 20 MiB at 40 Mbit/s take 4 s, less one that may pass at once. A limit that makes TCP stall instead would take minutes.
	const mebibytes, atLeast = 20, 2.0
	b.write("/bench.py", benchProgram)
	b.write("/udp.py", []byte(`import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 9000)); s.settimeout(1)
for _ in range(20 * 1024):
    s.send(b"x" * 1024)
`))
	var m measured
	if err := json.Unmarshal([]byte(b.sh(fmt.Sprintf("timeout 30 python3 /bench.py %s 3 %d", h(174), mebibytes))), &m); err != nil {
		t.Fatal(err)
	}
	t.Logf("at 40 Mbit/s: %+v", m)
	for direction, rate := range map[string]float64{"down": m.Down, "up": m.Up} {
		if took := mebibytes / rate; took < atLeast {
			t.Errorf("%d MiB %s at 40 Mbit/s took %.1f s", mebibytes, direction, took)
		}
	}
	before := time.Now()
	b.sh("python3 /udp.py " + h(175))
	// Of 20 MiB no more can have come than the time allowed.
	if got, most := net0.datagrams(addr(h(175)))*1024, (1.2*time.Since(before).Seconds()+1)*40e6/8; float64(got) > most {
		t.Errorf("%d bytes of UDP in %v at 40 Mbit/s", got, time.Since(before))
	}
}
