package image

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/superserve/superserve/internal/image/unpack"
)

// choose picks the manifest for a platform from an index. Of several the first counts, as elsewhere.
func choose(index *v1.IndexManifest, want v1.Platform) (v1.Descriptor, error) {
	var there []string
	for _, m := range index.Manifests {
		image := m.MediaType.IsImage() || m.MediaType.IsIndex()
		if image && m.Platform == nil && len(index.Manifests) == 1 {
			return m, nil // its configuration tells
		}
		if !image || m.Platform == nil || m.Platform.OS == "unknown" {
			continue // an attestation, a signature, or something else that is no image
		}
		if runsOn(*m.Platform, want) {
			return m, nil
		}
		there = append(there, platformName(*m.Platform))
	}
	return v1.Descriptor{}, unsupported(want, there)
}

// runsOn says whether an image for p runs where want is asked for.
func runsOn(p, want v1.Platform) bool {
	if p.OS != want.OS || p.Architecture != want.Architecture {
		return false
	}
	return want.Variant == "" && baseline(p) || want.Variant == p.Variant
}

// baseline says whether every machine of the architecture runs the variant. amd64/v2 to v4 need newer processors.
func baseline(p v1.Platform) bool {
	return p.Architecture != "amd64" || p.Variant == "" || p.Variant == "v1"
}

// unsupported names what there is instead.
func unsupported(want v1.Platform, there []string) error {
	const most = 20
	slices.Sort(there)
	there = slices.Compact(there)
	text := "no image for a platform"
	if len(there) > most {
		there = append(there[:most], "…")
	}
	if len(there) > 0 {
		text = "only " + strings.Join(there, ", ")
	}
	return &Error{Code: CodeUnsupportedPlatform, Detail: fmt.Sprintf("%s is needed; the reference has %s", platformName(want), text)}
}

func platformName(p v1.Platform) string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return unpack.Quote(text)
}

// checkConfig checks that the configuration is of an image for the platform, whatever an index said.
func checkConfig(c *v1.ConfigFile, want v1.Platform) error {
	p := v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
	if p.OS == "" && p.Architecture == "" {
		return &Error{Code: CodeUnsupportedPlatform,
			Detail: platformName(want) + " is needed; the image does not say what it is for, so it may be no container image"}
	}
	if p.OS != want.OS || p.Architecture != want.Architecture {
		return unsupported(want, []string{platformName(p)})
	}
	return nil
}

// checkMediaTypes refuses what is in registries besides images of containers.
func checkMediaTypes(m *v1.Manifest) error {
	if !m.Config.MediaType.IsConfig() {
		return &Error{Code: CodePullFailed, Detail: "the reference names something that is not a container image: its configuration has the media type " +
			unpack.Quote(string(m.Config.MediaType))}
	}
	for _, l := range m.Layers {
		if !isLayer(l.MediaType) {
			return &Error{Code: CodePullFailed, Detail: "the image has a layer of the unknown media type " + unpack.Quote(string(l.MediaType))}
		}
	}
	return nil
}

// isLayer knows the layers that are tar archives. How they are compressed is seen from their bytes.
func isLayer(t types.MediaType) bool {
	return t.IsLayer() && !strings.Contains(string(t), "encrypted")
}
