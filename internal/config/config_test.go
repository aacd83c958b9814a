package config_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/superserve/superserve/internal/config"
)

func load(t *testing.T, toml string, env []string, args ...string) (*config.Config, []string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "superserve.toml")
	if err := os.WriteFile(file, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Bind(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Load(config.Sources{File: file, Environ: env, Flags: flags})
}

func TestDefaults(t *testing.T) {
	c, warnings, err := load(t, "", nil)
	if err != nil || len(warnings) != 0 {
		t.Fatalf("defaults: %v, warnings %q", err, warnings)
	}
	if c.Listen != "127.0.0.1:8080" || c.WarmPoolSize != 2 || !c.EdgeWake || c.ShutdownGrace != 15*time.Second ||
		c.RateLimit != 50 || len(c.ExtraCAFiles) != 0 {
		t.Errorf("unexpected defaults: %+v", c)
	}
	if got, want := c.DatabaseURL(), "sqlite:///var/lib/superserve/superserve.db"; got != want {
		t.Errorf("database %q, want %q", got, want)
	}
}

func TestLaterSourceWins(t *testing.T) {
	toml := "listen = '127.0.0.1:1'\nlog-level = 'debug'\nrate-burst = 7\nedge-wake = false\nextra-ca-files = ['/a','/b']\nshutdown-grace='1m'\nrate-limit=3"
	env := []string{"SUPERSERVE_LISTEN=127.0.0.1:2", "SUPERSERVE_RATE_BURST=8", "PATH=/bin"}
	c, _, err := load(t, toml, env, "--listen", "127.0.0.1:3", "--dns-upstream", "1.1.1.1", "--dns-upstream=9.9.9.9:53")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.RateBurst != 8 || c.LogLevel != "debug" || c.EdgeWake || c.RateLimit != 3 {
		t.Errorf("wrong precedence: %+v", c)
	}
	if len(c.ExtraCAFiles) != 2 || c.ShutdownGrace != time.Minute || len(c.DNSUpstream) != 2 {
		t.Errorf("wrong values: %+v", c)
	}
	for key, want := range map[string]string{"listen": "--listen", "rate-burst": "SUPERSERVE_RATE_BURST", "pids-limit": "default"} {
		if got := c.Origin(key); got != want {
			t.Errorf("origin of %s is %q, want %q", key, got, want)
		}
	}
	if got := c.Origin("log-level"); !strings.HasPrefix(got, "the file ") {
		t.Errorf("origin of log-level is %q", got)
	}
}

// Every refusal names the setting, the source and what is allowed.
func TestRefusals(t *testing.T) {
	secret := "ss_live_tooshort"
	cases := []struct {
		name, toml string
		env, args  []string
		want       []string
	}{
		{"unknown TOML key", "bogus = 1", nil, nil, []string{`"bogus" is not a setting`}},
		{"TOML table", "[server]\nlisten='x:1'", nil, nil, []string{`"server" is not a setting`}},
		{"underscore", "data_dir = '/x'", nil, nil, []string{"did you mean data-dir?"}},
		{"secret in TOML", "bootstrap-api-key = 'x'", nil, nil, []string{"SUPERSERVE_BOOTSTRAP_API_KEY"}},
		{"broken TOML", "listen = ", nil, nil, []string{"line 1"}},
		{"TOML type", "listen = 5", nil, nil, []string{"setting listen", "the file ", "host:port"}},
		{"TOML list as text", "extra-ca-files = '/a'", nil, nil, []string{"setting extra-ca-files"}},
		{"enumeration", "", nil, []string{"--log-format=xml"}, []string{"setting log-format", "--log-format", "text, json"}},
		{"empty enumeration", "", []string{"SUPERSERVE_LOG_LEVEL="}, nil, []string{"setting log-level", "SUPERSERVE_LOG_LEVEL"}},
		{"not a number", "", []string{"SUPERSERVE_RATE_LIMIT=fast"}, nil, []string{"SUPERSERVE_RATE_LIMIT", `"fast"`, "0.1"}},
		{"NaN", "", nil, []string{"--rate-limit=NaN"}, []string{"setting rate-limit"}},
		{"below", "", nil, []string{"--pids-limit=63"}, []string{"from 64 to 65536"}},
		{"above", "", nil, []string{"--pids-limit=65537"}, []string{"from 64 to 65536"}},
		{"duration", "", nil, []string{"--shutdown-grace=10"}, []string{"setting shutdown-grace", "10m"}},
		{"listen", "", nil, []string{"--listen=8080"}, []string{"host:port"}},
		{"listen empty", "", nil, []string{"--listen="}, []string{"host:port"}},
		{"port", "", nil, []string{"--listen=a:70000"}, []string{"host:port"}},
		{"cidr with host bits", "", nil, []string{"--network-cidr=10.0.0.1/16"}, []string{"IPv4 CIDR"}},
		{"cidr v6", "", nil, []string{"--network-cidr=fd00::/16"}, []string{"IPv4 CIDR"}},
		{"blocked", "", nil, []string{"--network-blocked=203.0.113.0/24,203.0.113.7/24"}, []string{"setting network-blocked", "CIDRs"}},
		{"url", "", nil, []string{"--public-url=ftp://x"}, []string{"http:// or https://"}},
		{"sandbox host", "", nil, []string{"--sandbox-host=Under_score"}, []string{"domain name"}},
		{"resolver", "", nil, []string{"--dns-upstream=dns.example"}, []string{"IP addresses"}},
		{"origin", "", nil, []string{"--cors-origins=https://app.example.com/"}, []string{"setting cors-origins", "without a path"}},
		{"database", "", nil, []string{"--database=mysql://u:hunter2@h/d"}, []string{"sqlite:/// or postgres://"}},
		{"data dir", "", nil, []string{"--data-dir="}, []string{"setting data-dir"}},
		{"tls", "", nil, []string{"--tls=on"}, []string{"setting tls", "--tls", "internal, or empty"}},
		{"certificate alone", "", nil, []string{"--tls-cert=/c"}, []string{"setting tls-key: it is empty", "--tls-cert gives tls-cert"}},
		{"key alone", "", []string{"SUPERSERVE_TLS_KEY=/k"}, nil, []string{"setting tls-cert: it is empty", "SUPERSERVE_TLS_KEY gives tls-key"}},
		{"tls twice", "tls = 'internal'", nil, []string{"--tls-cert=/c", "--tls-key=/k"}, []string{"setting tls:", "only one of them"}},
		{"public url without tls", "", nil, []string{"--tls=internal", "--public-url=http://x"}, []string{"setting public-url", "https://"}},
		{"public url, files", "", nil, []string{"--tls-cert=/c", "--tls-key=/k", "--public-url=http://x"}, []string{"setting public-url", "https://"}},
		{"public url, no host", "", nil, []string{"--tls=internal", "--public-url=https://a_b"}, []string{"setting public-url", "a_b"}},
		{"bootstrap key", "", []string{"SUPERSERVE_BOOTSTRAP_API_KEY=" + secret}, nil, []string{"32 base64url"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := load(t, c.toml, c.env, c.args...)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			for _, s := range []string{secret, "hunter2"} {
				if strings.Contains(err.Error(), s) {
					t.Errorf("error %q shows a secret", err)
				}
			}
		})
	}
}

func TestAcceptedAtTheLimits(t *testing.T) {
	for _, arg := range []string{
		"--pids-limit=64", "--pids-limit=65536", "--shutdown-grace=0s", "--shutdown-grace=10m", "--metrics-listen=",
		"--listen=127.0.0.1:0", "--network-cidr=10.0.0.0/8", "--public-url=https://api.example.com", "--edge-wake=false",
		"--database=postgres:///x?host=/run", "--tls=", "--tls=internal", "--dns-upstream=", "--dns-upstream=::1",
	} {
		if _, _, err := load(t, "", nil, arg); err != nil {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, _, err := config.Load(config.Sources{File: filepath.Join(t.TempDir(), "none.toml")}); err == nil {
		t.Error("a file that --config names and that is missing was accepted")
	}
}

func TestUnknownVariableWarns(t *testing.T) {
	_, warnings, err := load(t, "", []string{"SUPERSERVE_LISTEM=x", "SUPERSERVE_API_KEY=y"})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "SUPERSERVE_LISTEM") {
		t.Errorf("warnings %q, error %v", warnings, err)
	}
}

func TestBaseURL(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:80": "http://127.0.0.1:80", "0.0.0.0:80": "http://127.0.0.1:80", "[::]:80": "http://127.0.0.1:80",
		"[fd00::1]:80": "http://[fd00::1]:80",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&config.Config{}).BaseURL(a); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	if got := (&config.Config{PublicURL: "https://x"}).BaseURL(&net.TCPAddr{}); got != "https://x" {
		t.Errorf("public URL not used: %q", got)
	}
}

// A setting without help, or a number without limits, cannot be documented.
func TestEverySettingIsDescribed(t *testing.T) {
	for _, s := range config.Settings() {
		if s.Help == "" || !strings.HasSuffix(s.Help, ".") {
			t.Errorf("%s: the help must be sentences", s.Key)
		}
		if (s.Type == "integer" || s.Type == "number" || s.Type == "duration") && (s.Min == "" || s.Max == "") {
			t.Errorf("%s: a number needs min and max", s.Key)
		}
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	got, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != config.Reference() {
		t.Error("docs/configuration.md differs from internal/config/config.go; run make generate")
	}
}

func FuzzLoadTOML(f *testing.F) {
	f.Add("listen = '127.0.0.1:1'\n")
	f.Add("extra-ca-files = ['/a']\nrate-limit = 1e9\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(dir, "f.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := config.Load(config.Sources{File: file})
		if err == nil && (c.DataDir == "" || c.PIDsLimit < 64) {
			t.Errorf("accepted out of range: %+v", c)
		}
	})
}
