package image

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
)

// runScript runs the definition's script in the root file system, as root and with the host's network. It is as trusted
// as the packages' own scripts, which run in the same way: definitions come with the server.
func runScript(ctx context.Context, dir, tmp, script string) error {
	if err := lendResolver(dir); err != nil {
		return &BuildError{Step: stepScript, Err: err}
	}
	err := inRoot(ctx, dir, tmp, stepScript, "/bin/sh", "-eu", "-c", script)
	if failed, ok := errors.AsType[*BuildError](err); ok && mentions(failed.Output, "CERT_IN_CHAIN", "certificate") {
		failed.Hint = "if a proxy inspects the server's TLS, name its certificate in the setting extra-ca-files"
	}
	return err
}

func mentions(output []string, words ...string) bool {
	return slices.ContainsFunc(output, func(line string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(line, word) })
	})
}

// lendResolver lets programs in dir resolve names as the host does. fixFiles puts the image's own file there.
func lendResolver(dir string) error {
	content, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return writeRootFile(root, rootFile{name: "etc/resolv.conf", content: string(content), mode: 0o644})
}
