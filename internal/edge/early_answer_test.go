package edge_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/superserve/superserve/internal/edge"
)

// Answers arrive whole also when the agent gives them before the edge has seen the end of the request's body.
func TestEarlyAnswersAreWhole(t *testing.T) {
	const want = `{"error":{"code":"is_directory","message":"/tmp is a directory"}}`
	r := newRig(t, agent(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, want)
	}))
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			for range 100 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/files?path=/tmp", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set(edge.TokenHeader, tok)
				req.Header.Set(edge.SandboxHeader, id)
				res, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				<-r.metrics.seen // of any of the calls; their number is limited
				if string(got) != want || err != nil {
					t.Errorf("got %q, %v", got, err)
					return
				}
			}
		})
	}
	calls.Wait()
}
