package guest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// gcPercent trades a little time for a small heap: the sandbox's memory is its user's.
const gcPercent = 50

// Main is the whole of boxd. It returns only when it can't begin; the result is the exit code.
//
// Flags: -listen (address, default 0.0.0.0:49160), -keepalive (of event streams, default 15s). The secret comes in
// guestapi.SecretEnv, which Main removes from the environment. With guestapi.MaxProcessesEnv the sandbox's kernel
// limits the processes of commands, and boxd does not begin when that can't be set up.
func Main(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("boxd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", fmt.Sprintf("0.0.0.0:%d", guestapi.Port), "`address` to listen on")
	keepAlive := flags.Duration("keepalive", defaultKeepAlive, "`time` between two keepalives of an event stream")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	secret := os.Getenv(guestapi.SecretEnv)
	_ = os.Unsetenv(guestapi.SecretEnv)
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	server, err := New(Config{
		Secret: secret, Version: version(), KeepAlive: *keepAlive, Logger: logger,
	})
	if err != nil {
		fmt.Fprintf(stderr, "boxd: %s (set %s)\n", err, guestapi.SecretEnv)
		return 1
	}
	if err := server.limitTasks(os.Getenv(guestapi.MaxProcessesEnv)); err != nil {
		fmt.Fprintf(stderr, "boxd: %s\n", err)
		return 1
	}
	l, err := Listen(*listen)
	if err != nil {
		fmt.Fprintf(stderr, "boxd: %s\n", err)
		return 1
	}
	surviveSignals()
	debug.SetGCPercent(gcPercent)
	syscall.Umask(0o022)
	go server.Reap(context.Background())
	logger.Info("listening", "addr", l.Addr().String())
	for {
		err := server.Serve(l)
		// The end of process 1 is the end of the sandbox, so it goes on whatever happens.
		logger.Error("the listener failed", "err", err)
		_ = l.Close()
		l = listenAgain(*listen)
	}
}

// listenAgain tries until it succeeds.
func listenAgain(addr string) net.Listener {
	for {
		l, err := Listen(addr)
		if err == nil {
			return l
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// surviveSignals takes every signal that would end boxd. They are discarded: the host ends a sandbox from outside, and
// a program in the sandbox that tells process 1 to end, or closes boxd's output, must not end the sandbox.
func surviveSignals() {
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGILL, syscall.SIGTRAP,
		syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGUSR1, syscall.SIGSEGV, syscall.SIGUSR2,
		syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGTERM, syscall.SIGSTKFLT, syscall.SIGTSTP, syscall.SIGTTIN,
		syscall.SIGTTOU, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGVTALRM, syscall.SIGIO, syscall.SIGPWR,
		syscall.SIGSYS)
}

// version is what the build recorded of the module.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
