package runtimetest

// Commands the suite runs in an instance, by /bin/sh -c. A simulated agent must know these texts.
const (
	// CounterCommand starts a process in the background that writes an ever higher number, from 1, to /tmp/count. It
	// never forks, so it counts as fast as the instance runs, and it holds none of the command's pipes.
	CounterCommand = `(i=0; while :; do i=$((i+1)); echo $i >/tmp/count; done) </dev/null >/dev/null 2>&1 &`
	// ReadCounterCommand prints the number. It tries again when it hits the moment in which the file is empty.
	ReadCounterCommand = `c=; while [ -z "$c" ]; do c=$(cat /tmp/count 2>/dev/null); done; echo $c`
	// RandomCommand prints 16 bytes of the kernel's randomness in hexadecimal.
	RandomCommand = `od -An -tx1 -N16 /dev/urandom`
	// ClockCommand prints the instance's time in seconds since 1970.
	ClockCommand = `date +%s`
	// HostnameCommand prints the host name.
	HostnameCommand = `hostname`

	// hogCommand needs ever more memory: tail looks for the last ten lines of a file without a line end.
	hogCommand = `tail /dev/zero >/dev/null`
	// spinCommand uses as much CPU time as it gets, in the background.
	spinCommand = `(while :; do :; done) </dev/null >/dev/null 2>&1 &`
	// bombCommand forks without end, in the background.
	bombCommand = `(b() { b | b & b; }; b) </dev/null >/dev/null 2>&1 &`
)
