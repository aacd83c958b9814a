package cli

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/superserve/superserve/internal/config"
)

// keyFileName is the file in the data directory with the key that the first start generated, mode 0600.
const keyFileName = "api-key"

// newAPIKey makes a random key: ss_live_ and 32 base64url characters, 192 bits.
func newAPIKey() string {
	var b [24]byte
	rand.Read(b[:]) // never fails; it ends the program instead
	return "ss_live_" + base64.RawURLEncoding.EncodeToString(b[:])
}

// readKeyFile reads the generated key; "" when there is none.
func readKeyFile(dataDir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dataDir, keyFileName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the kept API key: %w", err)
	}
	key := strings.TrimSpace(string(data))
	if !config.ValidAPIKey(key) {
		return "", fmt.Errorf("the file %s does not hold an API key; remove it or put one there", filepath.Join(dataDir, keyFileName))
	}
	return key, nil
}

// writeKeyFile keeps the key, whole or not at all.
func writeKeyFile(dataDir, key string) error {
	f, err := os.CreateTemp(dataDir, keyFileName+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("keeping the API key: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after the rename
	_, err = f.WriteString(key + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keeping the API key: %w", err)
	}
	if err := os.Rename(f.Name(), filepath.Join(dataDir, keyFileName)); err != nil {
		return fmt.Errorf("keeping the API key: %w", err)
	}
	return nil
}
