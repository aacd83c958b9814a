package network

// CreateNetNS is for the tests' own namespaces.
func CreateNetNS(path string) error { return createNetNS(path) }

// Ports are where the gatekeeper listens.
func (m *Manager) Ports() (resolver, proxy int) { return int(m.ports.resolver), int(m.ports.proxy) }

// Observe looks at the flows and counters now.
func (m *Manager) Observe() { m.observe() }
