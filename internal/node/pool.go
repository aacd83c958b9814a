package node

import (
	"context"
	"errors"
	"sync"
)

// pool keeps instances restored from template checkpoints, without identity and behind a closed network, so that a
// create only has to name one.
type pool struct {
	node *Node
	kick chan struct{} // capacity 1: something may be missing

	mu    sync.Mutex
	want  map[string]bool // checkpoint ids to keep warm
	ready map[string][]*machine
}

func newPool(n *Node) *pool {
	return &pool{node: n, kick: make(chan struct{}, 1), want: map[string]bool{}, ready: map[string][]*machine{}}
}

// KeepWarm names the template checkpoints to keep warm instances of, replacing the list before it.
func (n *Node) KeepWarm(checkpointIDs []string) {
	p := n.pool
	p.mu.Lock()
	p.want = map[string]bool{}
	for _, id := range checkpointIDs {
		p.want[id] = true
	}
	var stale []*machine
	for id, ms := range p.ready {
		if !p.want[id] {
			stale = append(stale, ms...)
			delete(p.ready, id)
		}
	}
	p.mu.Unlock()
	n.discard(stale)
	p.wake()
}

func (n *Node) discard(ms []*machine) {
	if len(ms) == 0 {
		return
	}
	n.wg.Go(func() {
		for _, m := range ms {
			if err := n.abandon(n.ctx, m); err != nil {
				n.cfg.Logger.Error("removing a warm instance", "instance", m.record.InstanceID, "error", err)
			}
		}
	})
}

// keepFilling fills the pool whenever something may be missing, until the node stops.
func (p *pool) keepFilling(ctx context.Context) {
	for {
		select {
		case <-p.kick:
			p.fill(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (p *pool) wake() {
	select {
	case p.kick <- struct{}{}:
	default: // it is going to look anyway
	}
}

// take returns a warm instance of a checkpoint that still runs, or nil.
func (p *pool) take(checkpointID string) *machine {
	defer p.wake()
	for {
		m := p.pop(checkpointID)
		if m == nil {
			return nil
		}
		select {
		case <-m.instance.Done():
			p.node.discard([]*machine{m})
		default:
			return m
		}
	}
}

func (p *pool) pop(checkpointID string) *machine {
	p.mu.Lock()
	defer p.mu.Unlock()
	ms := p.ready[checkpointID]
	if len(ms) == 0 {
		return nil
	}
	m := ms[len(ms)-1]
	p.ready[checkpointID] = ms[:len(ms)-1]
	p.node.cfg.Metrics.WarmPool(p.size())
	return m
}

func (p *pool) size() int {
	total := 0
	for _, ms := range p.ready {
		total += len(ms)
	}
	return total
}

// missing names the checkpoint with the fewest warm instances, fewer than wanted, besides those that failed; "" when there
// is none.
func (p *pool) missing(failed map[string]bool) (checkpointID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fewest := p.node.cfg.WarmPool
	for id := range p.want {
		p.prune(id)
		if n := len(p.ready[id]); n < fewest && !failed[id] {
			checkpointID, fewest = id, n
		}
	}
	return checkpointID
}

// prune removes the instances that have ended while they waited. Call with mu held.
func (p *pool) prune(checkpointID string) {
	var alive, ended []*machine
	for _, m := range p.ready[checkpointID] {
		select {
		case <-m.instance.Done():
			ended = append(ended, m)
		default:
			alive = append(alive, m)
		}
	}
	p.ready[checkpointID] = alive
	p.node.discard(ended)
}

// fill brings up one instance after the other, so that it takes little from creates that are going on. What failed is
// left alone until the next create: one that finds nothing warm makes its own and reports what is wrong.
func (p *pool) fill(ctx context.Context) {
	failed := map[string]bool{}
	for id := p.missing(failed); id != "" && ctx.Err() == nil; id = p.missing(failed) {
		m, err := p.node.restore(ctx, id)
		if err != nil {
			if ctx.Err() == nil {
				p.node.cfg.Logger.Error("filling the warm pool", "checkpoint", id, "error", err)
			}
			failed[id] = true
			continue
		}
		if !p.add(id, m) {
			p.node.discard([]*machine{m})
		}
	}
}

// add puts an instance into the pool, unless its checkpoint is no longer wanted.
func (p *pool) add(checkpointID string, m *machine) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.want[checkpointID] {
		return false
	}
	p.ready[checkpointID] = append(p.ready[checkpointID], m)
	p.node.cfg.Metrics.WarmPool(p.size())
	return true
}

// drain removes all warm instances.
func (p *pool) drain(ctx context.Context) error {
	p.mu.Lock()
	ready := p.ready
	p.ready, p.want = map[string][]*machine{}, map[string]bool{}
	p.mu.Unlock()
	var errs []error
	for _, ms := range ready {
		for _, m := range ms {
			errs = append(errs, p.node.destroy(ctx, m))
		}
	}
	return errors.Join(errs...)
}
