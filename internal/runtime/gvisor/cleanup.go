package gvisor

import (
	"context"
	"errors"
	"path/filepath"
)

// Cleanup ends every instance whose cgroup is below parent, whoever started it, and removes the cgroups. For a host
// whose server has stopped and is to leave nothing behind.
func Cleanup(ctx context.Context, parent string) error {
	h, err := findHierarchy(cgroupRoot)
	if err != nil {
		return err
	}
	children := map[string]bool{}
	for _, dir := range h.all(parent) {
		instances, err := filepath.Glob(filepath.Join(dir, "*-*"))
		if err != nil {
			return err
		}
		for _, path := range instances {
			children[filepath.Base(path)] = true
		}
	}
	var errs []error
	for child := range children {
		errs = append(errs, h.remove(ctx, filepath.Join(parent, child)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return h.remove(ctx, parent)
}
