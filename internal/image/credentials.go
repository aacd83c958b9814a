package image

import (
	"context"
	"fmt"
	"os"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// authenticator finds the credentials for a repository. The files are read anew each time: tokens in them change.
func (s *Store) authenticator(ctx context.Context, repo name.Repository, given *Credentials) (authn.Authenticator, error) {
	if given != nil {
		return authn.FromConfig(authn.AuthConfig{Username: given.Username, Password: given.Password}), nil
	}
	if s.opts.RegistryConfig != "" {
		found, err := fromFile(s.opts.RegistryConfig, repo)
		if err != nil || found != nil {
			return found, err
		}
	}
	found, err := authn.Resolve(ctx, authn.DefaultKeychain, repo)
	if err != nil {
		return nil, &Error{Code: CodePullFailed, Detail: "the server's own config.json for registries can't be read", Err: err}
	}
	return found, nil
}

// fromFile looks into the operator's file; nil when it has nothing for the repository.
func fromFile(file string, repo name.Repository) (authn.Authenticator, error) {
	cf, err := readRegistryConfig(file)
	if err != nil {
		return nil, &Error{Code: CodePullFailed, Detail: "the server's file of registry credentials can't be read", Err: err}
	}
	for _, key := range []string{repo.String(), repo.RegistryStr()} {
		if key == name.DefaultRegistry {
			key = authn.DefaultAuthKey
		}
		found, err := cf.GetAuthConfig(key)
		if err != nil {
			return nil, &Error{Code: CodePullFailed, Detail: "the server's helper for registry credentials failed", Err: err}
		}
		found.ServerAddress = "" // set whether there was something or not
		if found != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: found.Username, Password: found.Password, Auth: found.Auth,
				IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
			}), nil
		}
	}
	return nil, nil
}

func readRegistryConfig(file string) (*configfile.ConfigFile, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cf, err := config.LoadFromReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s is not in the form of docker's config.json: %w", file, err)
	}
	return cf, nil
}
