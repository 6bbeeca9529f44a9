package dev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

const (
	containBy = 10 * time.Second
	lookEvery = 10 * time.Millisecond
)

var (
	// ErrNobodyHonest means no other node of the region runs whom one could lie to.
	ErrNobodyHonest = errors.New("no other node of the region is left to lie to")

	// ErrShutOut means the node is quarantined already, so that whoever speaks in
	// its name is refused.
	ErrShutOut = errors.New("nobody listens to this node any more")

	// ErrNotContained means honest nodes did not shut the liar out in time, or
	// somebody did who had no reason to.
	ErrNotContained = errors.New("the fleet did not contain the poisoned node")
)

// Poison ends a node in order, takes its state and its TPM, and as that node sends
// two different records with one sequence number to two peers of its region at
// once, over the real wire. It waits until all honest nodes of the region have
// quarantined the node and cut it off, and returns in sentences what came of it. Errors wrap
// ErrUnknownNode, ErrNobodyHonest, ErrShutOut, ErrNotContained or link's.
func Poison(ctx context.Context, f *Fleet, name string, step func(string)) ([]string, error) {
	n, err := f.Node(name)
	if err != nil {
		return nil, err
	}
	region, others := f.witnesses(n)
	if len(region) == 0 {
		return nil, fmt.Errorf("%s: %w", name, ErrNobodyHonest)
	}
	if standing, err := standingAt(ctx, region[0], n); err == nil && (standing == "quarantined" || standing == "revoked") {
		return nil, fmt.Errorf("%s: %w: %s has it as %s", name, ErrShutOut, region[0].Name, standing)
	}
	step("ending " + name)
	if err := end(f, name, stopPatience); err != nil {
		return nil, err
	}
	step("taking its state and its TPM")
	stolen, err := steal(ctx, f, n)
	if err != nil {
		return nil, fmt.Errorf("take %s: %w", name, err)
	}
	first, last := region[0], region[len(region)-1]
	if first.Name == last.Name {
		step(fmt.Sprintf("meeting %s twice under its name: it is the only one here that was never taken over", first.Name))
	} else {
		step(fmt.Sprintf("meeting %s and %s under its name", first.Name, last.Name))
	}
	who, err := stolen.approach(ctx, n, first, last)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("as %s: %w", name, err), stolen.close())
	}
	result, err := who.poison(ctx, f, region, others, step)
	return result, errors.Join(err, who.close())
}

func (l *liar) poison(ctx context.Context, f *Fleet, region, others []Node, step func(string)) ([]string, error) {
	if err := writeFile(f.marker(l.node.Name), nil, 0o600); err != nil {
		return nil, err
	}
	step(fmt.Sprintf("telling each another story in record %d of epoch %d", l.head.Seq+1, l.cert.Epoch))
	told, err := l.lie()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, told.Add(containBy))
	defer cancel()
	took, err := quarantinedBy(ctx, l.node, region, told)
	if err != nil {
		return nil, err
	}
	reason, err := l.cutOff(ctx)
	if err != nil {
		return nil, err
	}
	lines := []string{
		fmt.Sprintf("quarantined by %s within %d ms of the second record", names(region), took.Milliseconds()),
		fmt.Sprintf("its links were ended: %v", reason),
	}
	cut, err := cutBy(ctx, l.node, region, told)
	if err != nil {
		return nil, err
	}
	elsewhere, err := l.unlisted(ctx, f, others)
	return append(append(lines, cut...), elsewhere...), err
}

// witnesses are the nodes that run and that nobody has taken over: those of the
// accused's region, and the others.
func (f *Fleet) witnesses(accused Node) (region, others []Node) {
	for _, n := range f.honest() {
		if _, up := running(f, n.Name); !up || n.Name == accused.Name {
			continue
		}
		if n.Region == accused.Region {
			region = append(region, n)
		} else {
			others = append(others, n)
		}
	}
	return region, others
}

// quarantinedBy waits until all nodes have the accused in quarantine, and returns
// how long the last of them took.
func quarantinedBy(ctx context.Context, accused Node, nodes []Node, since time.Time) (time.Duration, error) {
	took := make([]time.Duration, len(nodes))
	errs := make([]error, len(nodes))
	var wait sync.WaitGroup
	for i, n := range nodes {
		wait.Go(func() {
			tick := time.NewTicker(lookEvery)
			defer tick.Stop()
			for {
				if standing, err := standingAt(ctx, n, accused); err == nil && standing == "quarantined" {
					took[i] = time.Since(since)
					return
				}
				select {
				case <-ctx.Done():
					errs[i] = fmt.Errorf("%w: %s does not list it after %s", ErrNotContained, n.Name, containBy)
					return
				case <-tick.C:
				}
			}
		})
	}
	wait.Wait()
	return slices.Max(took), errors.Join(errs...)
}

// cutBy waits until all nodes have cut off the accused, and says how long that took and what it was.
func cutBy(ctx context.Context, accused Node, nodes []Node, since time.Time) ([]string, error) {
	last, lines := time.Duration(0), []string{""}
	for _, n := range nodes {
		for {
			c, err := caseAt(ctx, n, accused)
			if err == nil && c.GetCut().AsTime().After(since) {
				last = max(last, c.Cut.AsTime().Sub(since))
				lines = append(lines, n.Name+": "+c.Severed)
				break
			}
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: %s has not cut it off after %s", ErrNotContained, n.Name, containBy)
			case <-time.After(lookEvery):
			}
		}
	}
	lines[0] = fmt.Sprintf("the last live connection with it ended within %d ms of the second record", last.Milliseconds())
	return lines, nil
}

// standingAt is what a node makes of the accused; empty when it lists nothing.
func standingAt(ctx context.Context, n, accused Node) (string, error) {
	c, err := caseAt(ctx, n, accused)
	return c.GetStanding(), err
}

// caseAt is a node's case against the accused; nil when it lists none.
func caseAt(ctx context.Context, n, accused Node) (*controlv1.Case, error) {
	r, err := Control(n).ListCases(ctx, &controlv1.ListCasesRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range r.Cases {
		if c.Accused == accused.ID.String() {
			return c, nil
		}
	}
	return nil, nil
}

// unlisted says of every other region that nobody there lists the accused.
func (l *liar) unlisted(ctx context.Context, f *Fleet, others []Node) (lines []string, err error) {
	for _, n := range others {
		standing, err := standingAt(ctx, n, l.node)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.Name, err)
		}
		if standing != "" {
			return nil, fmt.Errorf("%w: %s of another region lists it as %s", ErrNotContained, n.Name, standing)
		}
	}
	for _, r := range f.Regions {
		if slices.ContainsFunc(others, func(n Node) bool { return n.Region == r.Label }) {
			lines = append(lines, r.Label+" lists nobody")
		}
	}
	return lines, nil
}

func names(nodes []Node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return strings.Join(out, ", ")
}
