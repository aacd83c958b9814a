package builder

import (
	"errors"
	"fmt"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

// source is what the steps start from.
type source struct {
	image image.Image
	state state
}

// source makes the build's root image, or finds it.
func (j *job) source() (source, error) {
	if j.build.Spec.FromTemplate != "" {
		return j.fromTemplate()
	}
	return j.fromImage()
}

// fromTemplate takes the image of the template as it is now.
func (j *job) fromTemplate() (source, error) {
	j.report("reading template %s", j.build.Spec.FromTemplate)
	row, err := j.b.cfg.Store.Template(j.ctx, j.build.FromTemplateID)
	if err == nil && row.ImageID == "" {
		err = errors.New("it has no image")
	}
	if err != nil {
		return source{}, &template.BuildError{Code: template.BuildFailed, Err: err,
			Detail: fmt.Sprintf("template %s, which the build starts from, is not ready any more", j.build.Spec.FromTemplate)}
	}
	im, err := j.hold(func() (image.Image, error) { return j.b.cfg.Images.Image(row.ImageID) })
	if err != nil {
		return source{}, fmt.Errorf("opening the image of template %s: %w", row.Name, err)
	}
	j.log.Printf("from template %s", row.Name)
	return source{image: im, state: state{env: row.Env, user: row.User, workdir: row.Workdir}}, nil
}

// fromImage takes an image from a registry, or one that was uploaded.
func (j *job) fromImage() (source, error) {
	spec, images := j.build.Spec, j.b.cfg.Images
	digest, uploaded := spec.UploadedImage()
	if uploaded {
		j.log.Printf("from the uploaded image %s", digest)
	} else {
		j.log.Printf("from %s", spec.From)
	}
	var pulled image.Pulled
	im, err := j.hold(func() (im image.Image, err error) {
		if uploaded {
			pulled, err = j.importUpload(digest)
		} else {
			pulled, err = images.Pull(j.ctx, spec.From, image.PullOptions{Progress: j.imageProgress()})
		}
		return pulled.Image, err
	})
	if err != nil {
		return source{}, err
	}
	if err := j.noteDigest(pulled.Digest); err != nil {
		return source{}, err
	}
	j.log.Printf("the image is %s, %d MiB", pulled.Digest, im.SizeBytes>>20)
	return source{image: im, state: stateOf(pulled.Config)}, nil
}

// importUpload makes an image of an upload.
func (j *job) importUpload(digest string) (image.Pulled, error) {
	return j.b.cfg.Images.ImportLayout(j.ctx, j.b.uploadPath(sandbox.UploadImage, digest), image.ImportOptions{
		Reference: "upload " + digest, Progress: j.imageProgress(),
	})
}

// imageProgress passes on how far an image is, and logs each of its steps once.
func (j *job) imageProgress() func(image.Progress) {
	last := ""
	return func(p image.Progress) {
		j.report("%s", p)
		if p.Step != last {
			last = p.Step
			j.log.Printf("%s", p.Step)
		}
	}
}

// pack makes an image of the sandbox's root file system.
func (j *job) pack(box template.Box, p plan) (image.Image, error) {
	if im, err := j.b.cfg.Images.Find(p.resultHash()); err == nil {
		return im, nil
	}
	files, err := box.Export(j.ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer files.Close()
	end := p.end()
	im, err := j.b.cfg.Images.FromTar(j.ctx, files, image.TarOptions{
		SourceHash: p.resultHash(),
		Origin:     image.Origin{Reference: "build " + j.build.ID, Config: image.ImageConfig{Env: end.env, User: end.user, Workdir: end.workdir}},
		Progress:   j.imageProgress(),
	})
	return im, errors.Join(err, files.Close())
}

// stateOf is what an image's configuration says about commands.
func stateOf(c image.ImageConfig) state {
	s := state{env: c.Env, user: c.User, workdir: c.Workdir}
	if s.workdir == "" {
		s.workdir = defaultWorkdir
	}
	return s
}

// noteDigest keeps what the reference stood for.
func (j *job) noteDigest(digest string) error {
	if digest == "" || digest == j.build.SourceDigest {
		return nil
	}
	if !j.become(sandbox.BuildBuilding, func(row *sandbox.Build) { row.SourceDigest = digest }) {
		return errCancelled
	}
	return nil
}
