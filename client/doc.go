// Package client is the Go client of Superserve.
//
//	c, err := client.FromEnv()
//	sb, err := c.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "job"})
//	dp, err := c.DataPlane(sb)
//	res, err := dp.Exec(ctx, client.ExecRequest{Command: "uname -a"})
//	err = c.DeleteSandbox(ctx, sb.ID)
//
// Spawn runs a command with its streams connected, Terminal opens a shell, and Attach comes back to either:
//
//	p, err := dp.Spawn(ctx, client.ExecRequest{Command: "sort"})
//	go func() { io.Copy(p.Stdin, input); p.Stdin.Close() }()
//	code, err := p.Copy(ctx, os.Stdout, os.Stderr)
//
// A Client manages sandboxes with an API key; a DataPlane works inside one sandbox with that sandbox's access token.
// Both may be used by many goroutines at once. Every answer that is not a success is an *Error. GET and DELETE are
// retried (three attempts in all) on 429, 502, 503, 504 and network errors, POST and PATCH never.
package client
