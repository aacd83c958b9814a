package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

// buildFlags are the flags of template build.
type buildFlags struct {
	file, name, image      string
	startCmd, readyCmd     string
	vcpu, memory, disk     int
	watch                  bool
	startGiven, readyGiven bool // the two commands may be given empty
}

func (a *App) templateBuildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use: "build [DIRECTORY]", Short: "Build a template from a template.yaml or a Dockerfile", Args: operands,
		Long: `Build a template, a new one or one that exists, from a file in DIRECTORY (default: the current one).

A template.yaml has the fields name, vcpu, memory_mib, disk_mib, from or from_template, steps, start_cmd and ready_cmd of
the API; a copy step in it needs no context. Of a Dockerfile these instructions are known: FROM, RUN, ENV, WORKDIR, USER,
COPY, ADD of files, CMD and ENTRYPOINT, which become the start command; any other is refused. FROM superserve/NAME begins
with that system template.

COPY takes its files from DIRECTORY, without those that .dockerignore names. What a step copies is sent only for that step,
so a build begins after the last step of which nothing has changed.

Prints the build's id. The template is built on the server: --watch shows how it goes and waits for the end.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.startGiven, f.readyGiven = cmd.Flags().Changed("start-cmd"), cmd.Flags().Changed("ready-cmd")
			for name, value := range map[string]int{"vcpu": f.vcpu, "memory": f.memory, "disk": f.disk} {
				if cmd.Flags().Changed(name) && value < 1 {
					return usagef("--%s must be at least 1; got %d", name, value)
				}
			}
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return a.buildTemplate(cmd.Context(), f, dir)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "the file, - for standard input (default template.yaml or Dockerfile in DIRECTORY)")
	flags.StringVarP(&f.name, "name", "n", "", "the template's name (default: the one in template.yaml)")
	flags.StringVar(&f.image, "image", "", "begin with this image instead of from: a file of docker save, an OCI layout or its tar")
	flags.StringVar(&f.startCmd, "start-cmd", "", "start command, instead of the file's")
	flags.StringVar(&f.readyCmd, "ready-cmd", "", "command that exits with 0 when the start command is ready, instead of the file's")
	flags.IntVar(&f.vcpu, "vcpu", 0, "virtual CPUs of the template's sandboxes")
	flags.IntVar(&f.memory, "memory", 0, "their memory in MiB")
	flags.IntVar(&f.disk, "disk", 0, "their disk in MiB")
	flags.BoolVarP(&f.watch, "watch", "w", false, "show the build's log and wait for its end")
	return cmd
}

func (a *App) buildTemplate(ctx context.Context, f buildFlags, dir string) error {
	plan, err := a.readPlan(f.file, dir)
	if err != nil {
		return err
	}
	if err := plan.override(f); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if err := a.sendFiles(ctx, c, plan, f.image, dir); err != nil {
		return err
	}
	build, err := startBuild(ctx, c, plan)
	if err != nil {
		return err
	}
	return a.reportBuild(ctx, c, plan.Name, build, f.watch)
}

// override puts what the flags say in place of what the file says.
func (p *buildPlan) override(f buildFlags) error {
	p.Name = cmp.Or(f.name, p.Name)
	p.VCPU, p.MemoryMiB, p.DiskMiB = cmp.Or(f.vcpu, p.VCPU), cmp.Or(f.memory, p.MemoryMiB), cmp.Or(f.disk, p.DiskMiB)
	if f.startGiven {
		p.StartCmd = f.startCmd
	}
	if f.readyGiven {
		p.ReadyCmd = f.readyCmd
	}
	if f.image != "" {
		p.From, p.FromTemplate = "", ""
	}
	if p.Name == "" {
		return usagef("the template has no name: give --name")
	}
	return nil
}

// startBuild makes the template, or builds it again when there is one of the name.
func startBuild(ctx context.Context, c *client.Client, p *buildPlan) (*client.Build, error) {
	spec := p.spec()
	_, err := c.GetTemplate(ctx, p.Name)
	if client.IsNotFound(err) {
		t, id, err := c.CreateTemplate(ctx, client.CreateTemplateRequest{
			Name: p.Name, VCPU: p.VCPU, MemoryMiB: p.MemoryMiB, DiskMiB: p.DiskMiB, Spec: spec,
		})
		if err != nil {
			return nil, err
		}
		return c.GetBuild(ctx, t.ID, id)
	}
	if err != nil {
		return nil, err
	}
	return c.RebuildTemplate(ctx, p.Name, client.RebuildRequest{VCPU: p.VCPU, MemoryMiB: p.MemoryMiB, DiskMiB: p.DiskMiB, Spec: &spec})
}

func (a *App) templateRebuildCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "rebuild NAME", Short: "Do a template's latest build again", Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			build, err := c.RebuildTemplate(cmd.Context(), args[0], client.RebuildRequest{})
			if err != nil {
				return err
			}
			return a.reportBuild(cmd.Context(), c, args[0], build, watch)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show the build's log and wait for its end")
	return cmd
}

// reportBuild prints the build that was begun and, with watch, how it goes and ends.
func (a *App) reportBuild(ctx context.Context, c *client.Client, name string, build *client.Build, watch bool) error {
	if !a.json {
		fmt.Fprintln(a.Out, build.ID)
	}
	if !watch {
		if a.json {
			return a.printJSON(build)
		}
		fmt.Fprintf(a.Err, "building %s\nnext:\n  superserve template logs %s --follow\n", printable(name), printable(name))
		return nil
	}
	build, err := a.watchBuild(ctx, c, build)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(build)
	}
	if build.Status != client.BuildReady {
		err = errors.Join(err, fmt.Errorf("template %s was not built: %s", name, cmp.Or(build.ErrorMessage, string(build.Status))))
	}
	return err
}
