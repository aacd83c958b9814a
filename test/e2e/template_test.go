package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/client"
)

// TestTemplateFromImage goes all the way: an image without Debian's tools, steps of every kind, a process that serves.
func TestTemplateFromImage(t *testing.T) {
	reg, name := newRegistry(t), templateName(t)
	ref := reg.push("team/app:1", v1.Config{
		Env: []string{"PATH=/bin:/sbin:/usr/bin:/opt/bin", "FROM_IMAGE=yes"}, User: "web", WorkingDir: "/www",
	}, alpineLike(t)...)
	log := shared.ready(t, name, m{
		"from": ref,
		"steps": []m{
			{"run": `id -u; pwd; echo "$FROM_IMAGE"; echo oops >&2`},
			{"user": m{"name": "root"}},
			{"run": "mkdir -p /data && echo one > /data/file && chmod 4750 /data/file && ln /data/file /data/hard && " +
				"ln -s file /data/soft && mkfifo /data/pipe && mknod /data/dev c 1 3 && chown -h web:web /data/soft && touch -d '2001-02-03 04:05:06' /data/hard"},
			// What the image has: changed, moved and removed.
			{"run": "echo changed >> /www/index.html; chmod 640 /etc/group; mv /etc/passwd /etc/p && cp /etc/p /etc/passwd; mv /www /srv2; ln -s /srv2 /www; rm /bin/tr /bin/cut; echo x > /bin/cut"},
			{"env": m{"key": "PATH", "value": "/more:${PATH}", "expand": true}},
			{"env": m{"key": "PORT", "value": "8099"}},
			{"user": m{"name": "ada"}},
			{"workdir": "/srv/app"},
			{"workdir": "sub"},
			{"run": "echo mine > owned; pwd > where"},
		},
		"start_cmd": "httpd -f -p $PORT -h /www",
		"ready_cmd": "wget -q -O /dev/null http://127.0.0.1:$PORT/",
	})
	for _, want := range []string{
		"stdout: 100\nstdout: /www\nstdout: yes\n", "stderr: oops\n", "system: step 1 of 10: run id -u", "system: step 10 done", "system: the build is ready",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	b := shared.create(t, fromTemplate(name))
	if got := b.sh("wget -q -O - http://127.0.0.1:8099/"); got != "it serves\nchanged" {
		t.Errorf("the process of the template answers %q", got)
	}
	if got := b.sh("stat -c %a /etc/group; ls /bin/tr 2>/dev/null; cat /bin/cut; ls /srv2; readlink /www; wc -l < /etc/p"); got != "640\nx\nindex.html\n/srv2\n2" {
		t.Errorf("what the image had became %q", got)
	}
	if got := b.sh("id -un; pwd; echo $PATH $FROM_IMAGE; cat where; stat -c %U owned /srv/app/sub"); got !=
		"ada\n/srv/app/sub\n/more:/bin:/sbin:/usr/bin:/opt/bin yes\n/srv/app/sub\nada\nada" {
		t.Errorf("user, directory, environment and files: %q", got)
	}
	got := b.run("stat -c '%n %F %a %U %h %Y' /data/*; readlink /data/soft; stat -c '%t %T' /data/dev").Stdout
	for _, want := range []string{
		"/data/file regular file 4750 root 2 981173106", "/data/hard regular file 4750 root 2", "/data/soft symbolic link 777 web 1",
		"/data/pipe fifo", "/data/dev character special file", "\nfile\n1 3\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the files lack %q:\n%s", want, got)
		}
	}
}

// TestTemplateFromScratch: an image with nothing in it but one program is no worse than another, as far as nothing needs
// a shell.
func TestTemplateFromScratch(t *testing.T) {
	reg, name := newRegistry(t), templateName(t)
	ref := reg.push("scratch:1", v1.Config{}, tarDir("app"), tarFile("app/cat", busybox(t), 0o755), tarFile("app/text", "from scratch", 0o644))
	shared.ready(t, name, m{"from": ref, "steps": []m{{"env": m{"key": "A", "value": "1"}}, {"workdir": "/work"}}})
	b := shared.create(t, fromTemplate(name))
	res, err := b.data.Exec(t.Context(), client.ExecRequest{Command: "/app/cat", Args: []string{"/app/text"}})
	if err != nil || res.Stdout != "from scratch" {
		t.Errorf("exec: %+v, %v", res, err)
	}
	b.write("/work/file", "content")
	b.pause()
	b.resume()
	if got := b.read("/work/file"); got != "content" {
		t.Errorf("after a pause the file has %q", got)
	}
	shared.finish(t, name, shared.build(t, name, m{"from": ref, "steps": []m{{"run": "true"}}}), "failed")
}

func TestTemplateStepsAreCached(t *testing.T) {
	reg, name := newRegistry(t), templateName(t)
	ref := reg.push("cached:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(t)...)
	steps := func(last string) m {
		return m{"from": ref, "steps": []m{{"run": "cat /proc/sys/kernel/random/uuid > /stamp"}, {"env": m{"key": "X", "value": "y"}}, {"run": last}}}
	}
	stamp := func() string { return shared.create(t, fromTemplate(name)).sh("cat /stamp; cat /last") }
	shared.ready(t, name, steps("echo $X 1 > /last"))
	first := stamp()
	log := shared.ready(t, name, steps("echo $X 2 > /last"))
	second := stamp()
	if !strings.Contains(log, "step 1 of 3: run cat /proc/sys/kernel/random/uuid > /stamp (cached)") {
		t.Errorf("the first step was not cached:\n%s", log)
	}
	if strings.TrimSuffix(first, "y 1") != strings.TrimSuffix(second, "y 2") {
		t.Errorf("the first step was done again, or the last one was not:\n%s\n%s", first, second)
	}
	log = shared.ready(t, name, m{"from": ref, "steps": steps("echo $X 2 > /last")["steps"], "ready_cmd": "true"})
	if strings.Contains(log, "packing") || stamp() != second {
		t.Errorf("with the same steps the image was made again:\n%s", log)
	}
}

func TestFailedRebuildLeavesTheLastOne(t *testing.T) {
	reg, name := newRegistry(t), templateName(t)
	ref := reg.push("rebuild:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(t)...)
	shared.ready(t, name, m{"from": ref, "steps": []m{{"run": "echo good > /which"}}})
	id := shared.build(t, name, m{"from": ref, "steps": []m{{"run": "true"}, {"run": "echo it broke >&2; exit 7"}}})
	shared.finish(t, name, id, "failed")
	want := "step_failed: step 2 (run echo it broke >&2; exit 7): exited with code 7: it broke"
	if got := shared.row(t, name, id).ErrorMessage; got != want {
		t.Errorf("error_message %q, want %q", got, want)
	}
	var tm client.Template
	shared.api(t, "GET", "/templates/"+url.PathEscape(name), nil, &tm, 200)
	if tm.Status != "ready" {
		t.Errorf("the template is %s", tm.Status)
	}
	if got := shared.create(t, fromTemplate(name)).sh("cat /which"); got != "good" {
		t.Errorf("a sandbox has %q", got)
	}
}

// variables are n variables of an image.
func variables(n int) (env []string) {
	for i := range n {
		env = append(env, fmt.Sprintf("V%d=x", i))
	}
	return env
}

func TestBuildErrors(t *testing.T) {
	reg := newRegistry(t)
	small := reg.push("errors:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(t)...)
	bare := reg.push("errors:bare", v1.Config{}, tarFile("app", busybox(t), 0o755))
	for name, c := range map[string]struct {
		spec m
		want string
	}{
		"bad reference":        {m{"from": "UPPER//case"}, "bad_reference: "},
		"unknown tag":          {m{"from": reg.host + "/nothing:here"}, "image_pull_failed: "},
		"no registry":          {m{"from": "127.0.0.1:1/x:1"}, "image_pull_failed: "},
		"other platform":       {m{"from": reg.pushFor("errors:riscv", v1.Config{}, "riscv64", tarFile("a", "b", 0o644))}, "unsupported_platform: "},
		"escapes the root":     {m{"from": reg.push("errors:unsafe", v1.Config{}, tarFile("../../evil", "x", 0o644))}, "image_unsafe: "},
		"too much environment": {m{"from": reg.push("errors:large", v1.Config{Env: variables(300)}, tarFile("a", "b", 0o644))}, "image_too_large: "},
		"no shell":             {m{"from": bare, "steps": []m{{"run": "true"}}}, "step_failed: step 1 (run true): the image has no /bin/sh"},
		"no sudo":              {m{"from": small, "steps": []m{{"user": m{"name": "ada", "sudo": true}}}}, "step_failed: step 1 (user ada with sudo): the image has no sudo"},
		"start_cmd exits":      {m{"from": small, "start_cmd": "echo no port >&2; exit 4"}, "start_cmd_failed: it exited with code 4: no port"},
		"start before ready":   {m{"from": small, "start_cmd": "exit 5", "ready_cmd": "false"}, "start_cmd_failed: it exited with code 5"},
		"ready without shell":  {m{"from": bare, "ready_cmd": "true"}, "ready_cmd_failed: the image has no /bin/sh"},
		"start without shell":  {m{"from": bare, "start_cmd": "true"}, "start_cmd_failed: the image has no /bin/sh"},
		"killed in the middle": {m{"from": small, "steps": []m{{"run": "kill -9 $$"}}}, "step_failed: step 1 (run kill -9 $$): exited with code 137"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			name := templateName(t)
			id := shared.build(t, name, c.spec)
			shared.finish(t, name, id, "failed")
			if got := shared.row(t, name, id).ErrorMessage; !strings.HasPrefix(got, c.want) {
				t.Errorf("error_message %q, want %q…", got, c.want)
			}
			shared.api(t, "POST", "/sandboxes", m{"name": "x", "from_template": name}, nil, http.StatusConflict)
		})
	}
}

func TestCopyStep(t *testing.T) {
	reg, name := newRegistry(t), templateName(t)
	ref := reg.push("copy:1", v1.Config{Env: []string{"PATH=/bin"}, WorkingDir: "/app"}, alpineLike(t)...)
	context := tarOf(t, []*tar.Header{
		tarFile("main.sh", "#!/bin/sh\necho main\n", 0o755), tarDir("lib"), tarFile("lib/a", "a", 0o644), tarFile("lib/deep/b", "b", 0o600),
		tarLink("lib/link", "a"), tarFile("secret", "not copied", 0o644),
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, shared.URL+"/templates/contexts", bytes.NewReader(context))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", testKey)
	req.Header.Set("Content-Type", "application/x-tar")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s, %v", res.StatusCode, answer, err)
	}
	var sent struct{ Digest string }
	if err := json.Unmarshal(answer, &sent); err != nil {
		t.Fatal(err)
	}
	step := func(dst, chown string, src ...string) m {
		return m{"copy": m{"context": sent.Digest, "src": src, "dst": dst, "chown": chown}}
	}
	shared.ready(t, name, m{"from": ref, "steps": []m{
		step("run.sh", "", "main.sh"), step("/opt/", "web:101", "main.sh"), step("lib", "web", "lib"), step("/all/", "100", "main.sh", "lib"),
		{"run": "./run.sh > out"},
	}})
	b := shared.create(t, fromTemplate(name))
	got := b.sh("cat /app/out; stat -c '%n %a %U:%g' /app/run.sh /opt/main.sh /app/lib/a /app/lib/deep/b /all/main.sh /all/a; readlink /app/lib/link; " +
		"ls /app /app/lib /all; ls /secret /app/secret 2>&1 | wc -l")
	want := "main\n/app/run.sh 755 root:0\n/opt/main.sh 755 web:101\n/app/lib/a 644 web:101\n/app/lib/deep/b 600 web:101\n" +
		"/all/main.sh 755 web:101\n/all/a 644 web:101\na\n/all:\na\ndeep\nlink\nmain.sh\n\n/app:\nlib\nout\nrun.sh\n\n/app/lib:\na\ndeep\nlink\n2"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	id := shared.build(t, name, m{"from": ref, "steps": []m{step("/x", "", "nothing")}})
	shared.finish(t, name, id, "failed")
	if got := shared.row(t, name, id).ErrorMessage; !strings.Contains(got, "the build context has no nothing") {
		t.Errorf("error_message %q", got)
	}
}

func TestCancelBuild(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	reg := newRegistry(t)
	ref := reg.push("cancel:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(t)...)
	for phase, c := range buildPhases(reg, ref) {
		t.Run(phase, func(t *testing.T) {
			reg.stall.Store(c.stall)
			name := templateName(t)
			id := s.build(t, name, c.spec)
			s.await(t, name, id, c.until)
			path := "/templates/" + url.PathEscape(name) + "/builds/" + id
			s.api(t, "DELETE", path, nil, nil, 204)
			s.finish(t, name, id, "cancelled")
			s.api(t, "DELETE", path, nil, nil, 204)
			s.settled(t, 0)
		})
	}
}

// phase is a build that stays where it is.
type phase struct {
	spec  m
	stall bool // the registry's downloads
	until string
}

func buildPhases(reg *ociRegistry, ref string) map[string]phase {
	return map[string]phase{
		"pulling": {spec: m{"from": reg.fresh()}, stall: true, until: "asking the registry"},
		"step":    {spec: m{"from": ref, "steps": []m{{"run": "echo here; sleep 1000"}}}, until: "here"},
		"ready":   {spec: m{"from": ref, "steps": []m{{"run": "echo x > /x"}}, "start_cmd": "echo up; sleep 1000", "ready_cmd": "false"}, until: "up"},
	}
}

// TestKillDuringBuild: wherever the server is killed, the build is over after the restart, nothing of it is left, and the
// same build works.
func TestKillDuringBuild(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0"})
	reg := newRegistry(t)
	ref := reg.push("cancel:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(t)...)
	phases := buildPhases(reg, ref)
	phases["packing"] = phase{
		spec: m{"from": ref, "steps": []m{{"run": "head -c 300000000 /dev/urandom > /large"}}}, until: "unpacking",
	}
	for what, c := range phases {
		t.Run(what, func(t *testing.T) {
			reg.stall.Store(c.stall)
			name := templateName(t)
			id := s.build(t, name, c.spec)
			s.await(t, name, id, c.until)
			s.crash(t)
			reg.stall.Store(false)
			s.finish(t, name, id, "failed")
			if got := s.row(t, name, id).ErrorMessage; got != "build_failed: the server was restarted during the build" {
				t.Errorf("error_message %q", got)
			}
			s.settled(t, 0)
			s.ready(t, name, m{"from": ref, "steps": []m{{"run": "echo again > /again"}}})
			if got := s.create(t, fromTemplate(name)).sh("cat /again"); got != "again" {
				t.Errorf("a sandbox of the next build has %q", got)
			}
		})
	}
}

// TestPendingBuildsGoOn: what waits in the queue is not lost, and builds of one template keep their order.
func TestPendingBuildsGoOn(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0", "BUILDS_AT_ONCE": "1"})
	reg := newRegistry(t)
	ref := reg.push("queue:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(t)...)
	first := s.build(t, "first", m{"from": ref, "steps": []m{{"run": "echo here; sleep 1000"}}})
	s.await(t, "first", first, "here")
	second := s.build(t, "second", m{"from": ref, "steps": []m{{"run": "echo 2 > /n"}}})
	third := s.build(t, "second", m{"from": ref, "steps": []m{{"run": "echo 3 > /n"}}})
	if got := s.row(t, "second", third).Status; got != "pending" {
		t.Errorf("with one build at a time, the third is %s", got)
	}
	s.crash(t)
	s.finish(t, "second", second, "ready")
	s.finish(t, "second", third, "ready")
	if got := s.create(t, fromTemplate("second")).sh("cat /n"); got != "3" {
		t.Errorf("the later build's sandbox has %q", got)
	}
}

// TestDeletedTemplateLeavesNothing: the name is free at once, and a restart, which waits for no grace, removes the bytes.
func TestDeletedTemplateLeavesNothing(t *testing.T) {
	s := sibling(t, map[string]string{"WARM_POOL_SIZE": "0", "BUILD_CACHE_MAX": "0"})
	before := [3]int{len(s.entries(t, "images")), len(s.entries(t, "snapshots/snapshots")), len(s.entries(t, "templates/builds"))}
	reg := newRegistry(t)
	ref := reg.push("gone:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(t)...)
	for range 2 {
		s.ready(t, "gone", m{"from": ref, "steps": []m{{"run": "echo x > /x"}}, "ready_cmd": "true"})
		s.api(t, "DELETE", "/templates/gone", nil, nil, 204)
	}
	s.crash(t)
	eventually(t, 20*time.Second, "image, checkpoint and log are gone", func() bool {
		return before == [3]int{len(s.entries(t, "images")), len(s.entries(t, "snapshots/snapshots")), len(s.entries(t, "templates/builds"))}
	})
}
