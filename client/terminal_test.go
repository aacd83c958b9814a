package client_test

import (
	"io"
	"testing"

	"github.com/coder/websocket"
)

func TestTerminal(t *testing.T) {
	d, _ := sessions(t, "superserve.terminal.v1", func(p *peer) {
		if p.req.URL.RequestURI() != "/terminal?cols=80&rows=24" {
			t.Errorf("asked %s", p.req.URL)
		}
		p.text(started)
		p.send(websocket.MessageBinary, []byte("$ "))
		if _, b, err := p.Read(p.ctx); err != nil || string(b) != "exit\r" {
			t.Errorf("%q %v", b, err)
		}
		p.expect(`{"cols":100,"rows":30,"type":"resize"}`)
		p.text(`{"exit_code":5,"finished":true}`)
	})
	term, err := d.Terminal(t.Context(), 80, 24)
	if err != nil {
		t.Fatal(err)
	}
	prompt := make([]byte, 2)
	if _, err := io.ReadFull(term, prompt); err != nil || string(prompt) != "$ " {
		t.Errorf("%q %v", prompt, err)
	}
	if _, err := io.WriteString(term, "exit\r"); err != nil {
		t.Error(err)
	}
	if err := term.Resize(100, 30); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(term); len(rest) > 0 || err != nil {
		t.Errorf("%q %v", rest, err)
	}
	if code, err := term.Wait(t.Context()); code != 5 || err != nil || term.Close() != nil {
		t.Errorf("%d %v", code, err)
	}
}

func TestAttachTerminal(t *testing.T) {
	d, _ := sessions(t, "superserve.terminal.v1", func(p *peer) {
		if p.req.URL.RequestURI() != "/terminal?attach=s1&cols=80&offset=9&rows=24" {
			t.Errorf("asked %s", p.req.URL)
		}
		p.text(`{"session_id":"s1","pid":42,"terminal":true}`)
		p.send(websocket.MessageBinary, []byte("rest"))
		p.text(`{"exit_code":0,"finished":true}`)
	})
	term, err := d.AttachTerminal(t.Context(), "s1", 9, 80, 24)
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(term); string(rest) != "rest" || err != nil || term.Offset() != 13 || !term.HasTerminal {
		t.Errorf("%q %v, offset %d", rest, err, term.Offset())
	}
}
