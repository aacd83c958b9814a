package config

import (
	"net"
	"path/filepath"
	"time"
)

// DefaultFile is read when --config names no other file and it exists.
const DefaultFile = "/etc/superserve/superserve.toml"

// EnvPrefix starts the name of every environment variable that is a setting.
const EnvPrefix = "SUPERSERVE_"

// Config is the server's settings. The tags mean:
//
//	key      the name, as a flag and in TOML; the variable is derived from it
//	default  the value when no source sets one, in the same notation as everywhere else
//	help     what it means, with its unit
//	danger   what can go wrong, for settings that can do harm
//	allowed  the only values, separated by |
//	min, max the smallest and largest number
//	format   how a string is checked: hostport, cidr, url, host
//	optional an empty string is allowed although a format is given
//	env      "only": neither a flag nor a TOML key, because it is a secret
type Config struct {
	DataDir  string `key:"data-dir" default:"/var/lib/superserve" help:"Directory for everything the server keeps: database, images, snapshots, running sandboxes. One server at a time." danger:"Moving it while sandboxes run loses them. It must be on a file system with room for images and snapshots."`
	Database string `key:"database" default:"" help:"Where state is kept: sqlite:///absolute/path.db or postgres://user@host/name. Empty: a SQLite file in the data directory." danger:"Pointing a data directory at another database makes the server remove what that database does not know. Other users of the machine can read a password in a flag: give it in the variable."`

	Listen        string   `key:"listen" default:"127.0.0.1:8080" format:"hostport" help:"Address of the API and the data plane, host:port. Port 0 picks a free one." danger:"Without TLS everybody on the way can read keys and data: with another address than loopback use tls or tls-cert, or a proxy that adds it."`
	MetricsListen string   `key:"metrics-listen" default:"127.0.0.1:9090" format:"hostport" optional:"true" help:"Address of the Prometheus metrics, host:port. Empty: no metrics listener." danger:"Metrics are served without a key."`
	PublicURL     string   `key:"public-url" default:"" format:"url" optional:"true" help:"Base URL that clients reach the server at; it becomes data_plane_url. Empty: the origin each client used, which is right without a proxy. With tls the certificate is also made for its host."`
	CORSOrigins   []string `key:"cors-origins" default:"" format:"origin" help:"Web origins whose pages may call the API and the data plane from a browser, such as https://app.example.com; * for all. Empty: none." danger:"A page shows its API key to everyone who opens it: give pages the access tokens of single sandboxes instead."`
	SandboxHost   string   `key:"sandbox-host" default:"sandbox.localhost" format:"host" help:"Domain whose names boxd-<id>.<domain> lead to the sandboxes. Point its wildcard record at the server."`

	TLS     string `key:"tls" default:"" allowed:"internal" optional:"true" help:"Where the TLS certificate comes from. internal: a certificate authority made at first use and kept in <data-dir>/tls, which issues and renews a certificate for the hosts of public-url and listen, localhost, 127.0.0.1, ::1, sandbox-host and the names below it; superserve ca show prints what clients have to trust. Empty: tls-cert, or no TLS." danger:"Whoever has <data-dir>/tls/ca.key can pose as this server. Removing the directory makes a new authority, which every client has to be given."`
	TLSCert string `key:"tls-cert" default:"" help:"PEM file with the TLS certificate of the listener and its intermediates; tls-key goes with it. It has to be valid for the API's host, sandbox-host and *.<sandbox-host>. Read again when it changes, without a restart."`
	TLSKey  string `key:"tls-key" default:"" help:"PEM file with the key of tls-cert, not encrypted. Read again when it changes." danger:"Whoever can read it can pose as this server."`

	GVisorPlatform      string        `key:"gvisor-platform" default:"systrap" allowed:"systrap|kvm" help:"How gVisor intercepts system calls: systrap works everywhere, kvm needs a usable /dev/kvm." danger:"Snapshots taken on one platform are not restored on the other."`
	NetworkCIDR         string        `key:"network-cidr" default:"10.201.0.0/16" format:"cidr4" help:"IPv4 network that sandbox links are cut from, 4 addresses each, /8 to /24." danger:"It must not overlap a network the host uses. Changing it while sandboxes run cuts them off."`
	NetworkPool         int           `key:"network-pool-size" default:"4" min:"0" max:"256" help:"Network slots kept ready, in slots."`
	DNSUpstream         []string      `key:"dns-upstream" default:"" format:"resolver" help:"Resolvers that sandbox name look-ups are passed to, IP address or address:port. Empty: those of the host's /etc/resolv.conf."`
	NetworkBlocked      []string      `key:"network-blocked" default:"" format:"cidr" help:"Ranges that no sandbox may reach whatever its rules, as CIDRs of either family, besides the private ranges and the host's own addresses, which are always blocked: such as the host's public address when a gateway translates it, or a company's public network."`
	NetworkConnections  int           `key:"network-connections" default:"4096" min:"16" max:"65536" help:"Most connections and UDP flows one sandbox may have open to the outside, in connections. More are refused and shown in its network log." danger:"All sandboxes share the host's connection table (net.netfilter.nf_conntrack_max), and each TCP connection takes two open files of the server."`
	NetworkBandwidth    int           `key:"network-bandwidth" default:"0" min:"0" max:"30000" help:"Most one sandbox may send to the outside, and as much again receive from it, in Mbit/s: all its TCP together, and its UDP and ping together once more. 0: no limit. What clients exchange with the sandbox through this server does not count."`
	NetworkLogRetention time.Duration `key:"network-log-retention" default:"168h" min:"0s" max:"87600h" help:"How long rows of the network log are kept, as a duration such as 168h. 0s: as long as their sandbox."`
	NetworkLogMaxRows   int           `key:"network-log-max-rows" default:"10000" min:"0" max:"10000000" help:"Rows of the network log kept for each sandbox, give or take a tenth; the oldest go first. 10000 take about 4 MB of the database. 0: no log is kept, and GET /sandboxes/{id}/network answers 400 not_supported."`
	ExtraCAFiles        []string      `key:"extra-ca-files" default:"" help:"PEM files with certificates added to the trust store of every image, for hosts behind a TLS-inspecting proxy. A change remakes the image." danger:"Whoever holds the keys of these certificates can read the TLS traffic of sandboxes."`
	DebianMirror        string        `key:"debian-mirror" default:"" format:"url" optional:"true" help:"Debian mirror the system templates are bootstrapped from. Empty: the one the host's apt uses."`

	WarmPoolSize int `key:"warm-pool-size" default:"2" min:"0" max:"64" help:"Sandboxes of each system template, and of the teams' templates built last, kept restored and ready to be claimed, in sandboxes. 0 turns the pool off; each costs the memory of an idle sandbox."`
	PIDsLimit    int `key:"pids-limit" default:"1024" min:"64" max:"65536" help:"Most processes and threads one sandbox may have, in tasks." danger:"A high value lets one sandbox eat the host's process table."`

	DiskReserve int `key:"disk-reserve" default:"1024" min:"0" max:"1073741824" help:"Free space that the data directory's disk must have for new sandboxes, templates, builds and uploads, in MiB; with less they are refused, and what exists goes on. 0: no such check." danger:"Sandboxes on a full disk can't write, and can't be paused."`

	SandboxQuota         int           `key:"sandbox-quota" default:"100" min:"1" max:"100000" help:"Most sandboxes one team may have at a time, paused and failed ones counted."`
	TemplateQuota        int           `key:"template-quota" default:"100" min:"1" max:"100000" help:"Most templates one team may have."`
	BuildQuota           int           `key:"build-quota" default:"10" min:"1" max:"1000" help:"Most template builds of one team that may wait or run at a time."`
	BuildsAtOnce         int           `key:"builds-at-once" default:"2" min:"1" max:"64" help:"Template builds that run at a time; others wait."`
	BuildTimeout         time.Duration `key:"build-timeout" default:"1h" min:"1s" max:"24h" help:"Longest that one template build may run, as a duration such as 1h."`
	BuildCacheMax        int           `key:"build-cache-max" default:"10240" min:"0" max:"16777216" help:"Most bytes of saved build steps, in MiB; the least recently used go first. 0 saves none, and every build does all of its steps."`
	LayerCacheMax        int           `key:"layer-cache-max" default:"10240" min:"0" max:"16777216" help:"Most bytes of downloaded image layers, in MiB; the least recently used go first."`
	RegistryConfig       string        `key:"registry-config" default:"" help:"File with credentials for image registries, in the form of Docker's config.json. Empty: that of the account the server runs as." danger:"Every team's builds can pull what these credentials can read."`
	PrivateRegistries    []string      `key:"private-registries" default:"loopback" help:"Image registries that may be on this host or a private network, as hosts with or without a port; loopback for any on this host, * for all. Empty: none." danger:"Every team's builds can talk to such a registry, and with * to any HTTPS server on the private network."`
	SystemTemplates      []string      `key:"system-templates" default:"superserve/base,superserve/python-3.11,superserve/node-22,superserve/code-interpreter" help:"System templates to build at first start, in this order. The server is ready as soon as the first one is."`
	TemplateMaxVCPU      int           `key:"template-max-vcpu" default:"4" min:"1" max:"256" help:"Most virtual CPUs a team's template may ask for, in CPUs."`
	TemplateMaxMemory    int           `key:"template-max-memory" default:"4096" min:"256" max:"1048576" help:"Most memory a team's template may ask for, in MiB."`
	TemplateMaxDisk      int           `key:"template-max-disk" default:"8192" min:"1024" max:"4194304" help:"Most disk a team's template may ask for, in MiB." danger:"Every sandbox of such a template can fill that much of the host's disk."`
	BuildContextMax      int           `key:"build-context-max" default:"512" min:"1" max:"1048576" help:"Largest build context that is taken, in MiB."`
	ImageUploadMax       int           `key:"image-upload-max" default:"8192" min:"1" max:"1048576" help:"Largest image archive that is taken, in MiB."`
	UploadQuota          int           `key:"upload-quota" default:"20480" min:"1" max:"16777216" help:"Most bytes of build contexts and image archives kept for one team, in MiB. What no build names goes 24 hours after it was last sent."`
	RateLimit            float64       `key:"rate-limit" default:"50" min:"0.1" max:"100000" help:"Control-plane requests one team may make in the long run, in requests per second."`
	RateBurst            int           `key:"rate-burst" default:"100" min:"1" max:"100000" help:"Control-plane requests one team may make at once before the rate limit slows it, in requests."`
	DefaultTimeoutAction string        `key:"default-timeout-action" default:"delete" allowed:"delete|pause" help:"What timeout_seconds does when a create names no timeout_action." danger:"delete destroys the sandbox and its data."`
	EdgeWake             bool          `key:"edge-wake" default:"true" help:"Whether a data-plane call wakes a paused sandbox; false answers 503 instead."`

	LogLevel      string        `key:"log-level" default:"info" allowed:"debug|info|warn|error" help:"Least severe messages that are logged."`
	LogFormat     string        `key:"log-format" default:"text" allowed:"text|json" help:"Form of the log on standard error."`
	ShutdownGrace time.Duration `key:"shutdown-grace" default:"15s" min:"0s" max:"10m" help:"How long a stopping server lets open requests finish, as a duration such as 15s. Sandboxes keep running either way."`

	BootstrapAPIKey string `key:"bootstrap-api-key" default:"" env:"only" help:"At first start this becomes a valid key of the default team, ss_live_ and 32 base64url characters. Empty: one is generated, printed once and kept in <data-dir>/api-key." danger:"A secret: it is never shown, logged or accepted as a flag."`

	origins map[string]string
}

// DatabaseURL is the database to open: Database, or the SQLite file in the data directory.
func (c *Config) DatabaseURL() string {
	if c.Database != "" {
		return c.Database
	}
	return "sqlite://" + filepath.Join(c.DataDir, "superserve.db")
}

// BaseURL is PublicURL, or http:// (https:// with TLS) and addr, the address the server really listens on.
func (c *Config) BaseURL(addr net.Addr) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	if c.TLSOn() {
		return "https://" + Reachable(addr)
	}
	return "http://" + Reachable(addr)
}

// Reachable is host:port of a listener for a client on this machine: an unspecified host becomes loopback, because
// nobody can connect to 0.0.0.0.
func Reachable(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// Origin says where a setting's value came from: "default", `the file /etc/…`, "SUPERSERVE_LISTEN" or "--listen".
func (c *Config) Origin(key string) string {
	if o, ok := c.origins[key]; ok {
		return o
	}
	return originDefault
}
