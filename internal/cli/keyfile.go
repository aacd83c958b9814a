package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/durable"
)

// keyFileName is the file in the data directory with the key that the first start generated, mode 0600.
const keyFileName = "api-key"

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
	if !control.ValidAPIKey(key) {
		return "", fmt.Errorf("the file %s does not hold an API key; remove it or put one there", filepath.Join(dataDir, keyFileName))
	}
	return key, nil
}

// writeKeyFile keeps the key, whole or not at all.
func writeKeyFile(dataDir, key string) error {
	if err := durable.WriteFile(filepath.Join(dataDir, keyFileName), []byte(key+"\n"), 0o600); err != nil {
		return fmt.Errorf("keeping the API key: %w", err)
	}
	return nil
}
