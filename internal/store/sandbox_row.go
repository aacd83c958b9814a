package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/superserve/superserve/internal/sandbox"
)

// mutableColumns are those an update writes, in the order of mutableOf's values. due_at is derived and only ever
// written.
const mutableColumns = `name, state, token_version, vcpu, memory_mib, disk_mib, snapshot_id, active_since, paused_at,
	timeout_seconds, timeout_action, auto_delete_seconds, metadata, env_vars, network, failure_reason, due_at`

// sandboxColumns are what scanSandbox reads, in its order.
const sandboxColumns = `id, team_id, template_id, source_snapshot_id, created_at, generation,
	name, state, token_version, vcpu, memory_mib, disk_mib, snapshot_id, active_since, paused_at,
	timeout_seconds, timeout_action, auto_delete_seconds, metadata, env_vars, network, failure_reason`

func mutableOf(s *sandbox.Sandbox) ([]any, error) {
	metadata, err := mapJSON(s.Metadata)
	if err != nil {
		return nil, fmt.Errorf("encoding metadata: %w", err)
	}
	env, err := mapJSON(s.EnvVars)
	if err != nil {
		return nil, fmt.Errorf("encoding env_vars: %w", err)
	}
	network, err := networkJSON(s.Network)
	if err != nil {
		return nil, fmt.Errorf("encoding network: %w", err)
	}
	return []any{
		freeText(s.Name), string(s.State), s.TokenVersion, s.Resources.VCPU, s.Resources.MemoryMiB, s.Resources.DiskMiB,
		nullText(s.SnapshotID), micros(s.ActiveSince), nullMicros(s.PausedAt),
		s.TimeoutSeconds, string(s.TimeoutAction), s.AutoDeleteSeconds, metadata, env, network,
		freeText(s.FailureReason), nullMicros(s.DueAt()),
	}, nil
}

func scanSandbox(row scanner) (*sandbox.Sandbox, error) {
	var s sandbox.Sandbox
	var source, snapshot, network *string
	var created, activeSince int64
	var paused *int64
	var metadata, env string
	err := row.Scan(&s.ID, &s.TeamID, &s.TemplateID, &source, &created, &s.Generation,
		&s.Name, &s.State, &s.TokenVersion, &s.Resources.VCPU, &s.Resources.MemoryMiB, &s.Resources.DiskMiB,
		&snapshot, &activeSince, &paused,
		&s.TimeoutSeconds, &s.TimeoutAction, &s.AutoDeleteSeconds, &metadata, &env, &network, &s.FailureReason)
	if err != nil {
		return nil, err
	}
	s.SourceSnapshotID, s.SnapshotID = fromNullText(source), fromNullText(snapshot)
	s.CreatedAt, s.ActiveSince, s.PausedAt = fromMicros(created), fromMicros(activeSince), fromNullMicros(paused)
	if s.Metadata, err = mapFromJSON("metadata", metadata); err != nil {
		return nil, err
	}
	if s.EnvVars, err = mapFromJSON("env_vars", env); err != nil {
		return nil, err
	}
	if s.Network, err = networkFromJSON(network); err != nil {
		return nil, err
	}
	return &s, nil
}

// networkJSON keeps nil (the default policy) apart from a policy without entries.
func networkJSON(n *sandbox.NetworkConfig) (*string, error) {
	if n == nil {
		return nil, nil
	}
	b, err := json.Marshal(n)
	text := string(b)
	return &text, err
}

func networkFromJSON(text *string) (*sandbox.NetworkConfig, error) {
	if text == nil {
		return nil, nil
	}
	var n sandbox.NetworkConfig
	if err := json.Unmarshal([]byte(*text), &n); err != nil {
		return nil, errors.New("column network holds no network configuration")
	}
	return &n, nil
}
