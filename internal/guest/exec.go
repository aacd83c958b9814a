package guest

import (
	"bufio"
	"fmt"
	"net/http"
)

// exec runs a command and answers when its main process has exited. A client that goes away leaves the command to run
// on until its timeout.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	c, err := s.readCommand(w, r)
	if err != nil {
		return err
	}
	ex, err := s.start(c)
	if err != nil {
		return err
	}
	var stdout, stderr collector
	if ex.process == nil {
		stderr.add([]byte(ex.message))
		writeResult(w, &stdout, &stderr, ex.exit)
		return nil
	}
	out, errs := startPump(ex.stdout, stdout.add), startPump(ex.stderr, stderr.add)
	select {
	case <-ex.process.done:
	case <-r.Context().Done():
		stdout.release()
		stderr.release()
		return nil
	}
	out.finish()
	errs.finish()
	writeResult(w, &stdout, &stderr, ex.process.exitCode())
	return nil
}

// writeResult streams a guestapi.ExecResult.
func writeResult(w http.ResponseWriter, stdout, stderr *collector, exitCode int) {
	w.Header().Set("Content-Type", "application/json")
	buf := bufio.NewWriterSize(w, 32<<10)
	_, _ = buf.WriteString(`{"stdout":"`)
	stdout.writeTo(buf)
	_, _ = buf.WriteString(`","stderr":"`)
	stderr.writeTo(buf)
	fmt.Fprintf(buf, `","exit_code":%d`, exitCode)
	if stdout.truncated() || stderr.truncated() {
		_, _ = buf.WriteString(`,"truncated":true`)
	}
	_, _ = buf.WriteString("}\n")
	_ = buf.Flush() // an error is a client that is gone
}
