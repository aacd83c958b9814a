package e2e

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/image/imagetest"
	"github.com/superserve/superserve/templates"
	"github.com/superserve/superserve/test/harness"
)

func TestBaseHasWhatPeopleType(t *testing.T) {
	b := shared.create(t)
	for _, command := range []string{"vim --version", "vi --version", "git --version", "curl --version", "python3 --version", "less --version", "unzip -v"} {
		b.sh(command + " > /dev/null")
	}
	if got := b.sh("printf 'one\\n' > /tmp/f; vim -es -c '%s/one/two/' -c wq /tmp/f; cat /tmp/f"); got != "two" {
		t.Errorf("vim made %q of it", got)
	}
}

// TestNodeTemplate tries the system template that is not of Debian's packages alone. Its image is in the cache that
// tests share once it was made.
func TestNodeTemplate(t *testing.T) {
	t.Parallel()
	const name = "superserve/node-22"
	var authorities []string
	if file := os.Getenv("SSL_CERT_FILE"); file != "" { // as make up does it, for hosts behind a proxy
		authorities = append(authorities, file)
	}
	s := &server{harness.Prepare(t, map[string]string{"SYSTEM_TEMPLATES": name, "WARM_POOL_SIZE": "0", "EXTRA_CA_FILES": strings.Join(authorities, ",")})}
	imagetest.Seed(t, s.ImagesDir(), imagetest.Named(t, templates.Files(), name), image.Options{ExtraCAFiles: authorities})
	if err := errors.Join(s.Start(), s.AwaitReady(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := s.create(t, fromTemplate(name))
	if got := b.sh("node --version | cut -d. -f1; npm --version | cut -d. -f1; command -v nodejs dpkg-npm; true"); got != "v22\n10" {
		t.Errorf("%q", got)
	}
	b.write("/home/user/main.mjs", "import { readFile } from 'node:fs/promises'\nconsole.log((await readFile('/home/user/main.mjs')).length > 0, 6 * 7)\n")
	if got := b.sh("cd /home/user && node main.mjs"); got != "true 42" {
		t.Errorf("%q", got)
	}
	// A package of our own, so that the test needs no registry.
	b.write("/home/user/pkg/package.json", `{"name": "greet", "version": "1.0.0", "bin": {"greet": "greet.js"}}`)
	b.write("/home/user/pkg/greet.js", "#!/usr/bin/env node\nconsole.log('hello')\n")
	if got := b.sh("npm install --silent --offline --global /home/user/pkg && greet"); got != "hello" {
		t.Errorf("a program that npm installed: %q", got)
	}
}

// TestSystemTemplateInTheBackground builds a second system template for real: the server is ready before it, a create
// says what it waits for, and then it has what its name promises.
func TestSystemTemplateInTheBackground(t *testing.T) {
	const python = "superserve/python-3.11"
	s := &server{harness.Run(t, map[string]string{"SYSTEM_TEMPLATES": "superserve/base," + python, "WARM_POOL_SIZE": "1"})}
	status := func() client.Template {
		var list []client.Template
		s.api(t, "GET", "/templates?name_prefix="+python, nil, &list, 200)
		if len(list) != 1 {
			t.Fatalf("%d templates begin with %s", len(list), python)
		}
		return list[0]
	}
	if got := status().Status; got == "ready" {
		t.Fatalf("%s is ready as soon as the server is: nothing can be seen of its building", python)
	}
	s.create(t)
	var refused struct {
		Error struct{ Code, Message string }
	}
	eventually(t, time.Minute, "a create says what it waits for", func() bool {
		s.api(t, "POST", "/sandboxes", m{"name": "x", "from_template": python}, &refused, http.StatusConflict)
		return strings.Contains(refused.Error.Message, "packages")
	})
	eventually(t, 10*time.Minute, "it is ready", func() bool {
		got := status()
		if got.Status == "failed" {
			t.Fatalf("it failed: %v", got.ErrorMessage)
		}
		return got.Status == "ready"
	})
	b := s.create(t, fromTemplate(python))
	if got := b.sh("python --version; python -c 'import requests; print(requests.__name__)'"); got != "Python 3.11.2\nrequests" {
		t.Errorf("got %q", got)
	}
	b.sh("mkdir -p /tmp/pkg && cd /tmp/pkg && printf 'from setuptools import setup\\nsetup(name=\"hello\", version=\"1\", py_modules=[\"hello\"])\\n' > setup.py && " +
		"echo 'text = \"installed\"' > hello.py && pip install --quiet --no-index --no-build-isolation /tmp/pkg")
	if got := b.sh("cd / && python -c 'import hello; print(hello.text)'; python -m venv /tmp/venv && /tmp/venv/bin/pip --version | cut -d' ' -f1"); got != "installed\npip" {
		t.Errorf("pip and venv: %q", got)
	}
}
