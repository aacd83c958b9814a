package network

// CreateNetNS is for the tests' own namespaces.
func CreateNetNS(path string) error { return createNetNS(path) }

// ResolverPort is where the resolver listens.
func (m *Manager) ResolverPort() int { return int(m.resolver.port) }
