package egress

import "github.com/superserve/superserve/internal/sandbox"

// recordStart records a connection that has lasted for a while.
func (c *conn) recordStart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.closed {
		return
	}
	entry := c.entry
	entry.Verdict, entry.MatchRule = verdictOf(c.decision), c.decision.Rule
	c.proxy.engine.record(entry)
}

// end records what became of the connection.
func (c *conn) end() {
	c.abort()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	entry := c.entry
	if entry.Verdict == "" {
		entry.Verdict = verdictOf(c.decision)
	}
	entry.MatchRule = c.decision.Rule
	if c.cutBy != "" {
		entry.MatchRule += "; cut: " + c.cutBy
	}
	sent, received := c.sent.Load(), c.received.Load()
	entry.BytesSent, entry.BytesRecv = &sent, &received
	c.proxy.engine.record(entry)
}

// learn notes what the first bytes of the connection say, and decides again.
func (c *conn) learn(s *sniffer) sandbox.Decision {
	return c.decide(func() {
		c.named = true
		c.flow.Protocol, c.flow.Name, c.flow.NoName = s.protocol, s.name, s.noName
		c.entry.Protocol = s.protocol
		if s.name != "" {
			c.entry.Host = s.name
		}
	})
}
