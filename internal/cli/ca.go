package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/servertls"
)

func (a *App) caCommand() *cobra.Command {
	parent := group(&cobra.Command{
		Use: "ca", Short: "About the certificate authority of --tls internal",
	})
	show := &cobra.Command{
		Use: "show", Short: "Print the authority's certificate in PEM, on the server's own machine",
		Long: `Print the certificate of the authority that superserve server --tls internal made in its data directory, in PEM.
Clients trust it when SUPERSERVE_CA_FILE names a file with it. Where it is and its fingerprint go to standard error.`,
		Example: "  superserve ca show --data-dir /var/lib/superserve > superserve-ca.pem",
		Args:    operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.showCA(cfg)
		},
	}
	bindSettings(show, "data-dir")
	parent.AddCommand(show)
	return parent
}

// caOutput is the authority in --json.
type caOutput struct {
	File      string    `json:"file"`
	PEM       string    `json:"pem"`
	SHA256    string    `json:"sha256"` // AA:BB:…
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Domains   []string  `json:"domains"` // it can vouch for these and what is below them
}

func (a *App) showCA(cfg *config.Config) error {
	file := filepath.Join(cfg.TLSDir(), servertls.CertificateFile)
	cert, err := servertls.ReadAuthority(cfg.TLSDir())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no certificate authority in %s; superserve server --tls internal makes one at its first start",
			cfg.TLSDir())
	}
	if err != nil {
		return err
	}
	out := caOutput{
		File: file, PEM: string(servertls.PEM(cert)), SHA256: servertls.Fingerprint(cert),
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Domains: cert.PermittedDNSDomains,
	}
	if a.json {
		return a.printJSON(out)
	}
	fmt.Fprintf(a.Err, "%s, valid until %s, SHA-256 %s\n", file, cert.NotAfter.Format(time.DateOnly), out.SHA256)
	_, err = fmt.Fprint(a.Out, out.PEM)
	return err
}
