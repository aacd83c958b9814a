package image

import (
	"testing"
)

// For the tests in package image_test, which can't be here because imagetest imports this package.

func NewTestCA(t testing.TB, name string) []byte { return testCA(t, name) }

func AddCAFiles(t testing.TB, root string, files ...string) error {
	certs, err := loadCAs(files)
	if err != nil {
		return err
	}
	return addCAs(t.Context(), root, t.TempDir(), certs)
}

func MakeUser(t testing.TB, root, user, workdir string) error {
	return makeUser(t.Context(), root, t.TempDir(), Definition{User: user, Workdir: workdir})
}

func FixFiles(root string) error { return fixFiles(root) }

func RunScript(t testing.TB, root, script string) error {
	return runScript(t.Context(), root, t.TempDir(), script)
}
