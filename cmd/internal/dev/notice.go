package dev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// quoteEvery is the attest.interval of the fleet's nodes.
const quoteEvery = 10 * time.Second

// noticeBy leaves room for one quote that fails: the next one comes after at most an
// interval and a quarter, and another after that.
const noticeBy = 3 * quoteEvery

// ErrUnnoticed means a peer still takes a tampered machine for good.
var ErrUnnoticed = errors.New("a peer did not notice the tampered machine in time")

// TamperUnasked measures something that is in no boot log into a node's TPM and
// asks nobody to attest. It returns in a sentence who of the region noticed by
// itself, by which rule and how soon, or an error that wraps ErrUnknownNode,
// ErrNotRunning or, after noticeBy, ErrUnnoticed.
func TamperUnasked(ctx context.Context, f *Fleet, name string) (string, error) {
	n, err := f.Node(name)
	if err != nil {
		return "", err
	}
	if _, ok := running(f, name); !ok {
		return "", fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	if err := measure(n); err != nil {
		return "", fmt.Errorf("TPM of %s: %w", name, err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, noticeBy)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		noticed, rules, missing := f.noticed(ctx, n)
		if len(missing) == 0 {
			return fmt.Sprintf("%s: refused by %s after %.1fs, by rule %s; nobody asked it to attest",
				name, strings.Join(noticed, ", "), time.Since(began).Seconds(), strings.Join(rules, ", ")), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%w: %s after %s", ErrUnnoticed, strings.Join(missing, ", "), noticeBy)
		case <-tick.C:
		}
	}
}

// noticed asks the region's other nodes what they make of this one's machine.
func (f *Fleet) noticed(ctx context.Context, of Node) (noticed, rules, missing []string) {
	for _, n := range f.Nodes {
		if n.Region != of.Region || n.Name == of.Name {
			continue
		}
		r, err := Control(n).ListAttestations(ctx, &controlv1.ListAttestationsRequest{Node: of.Name})
		if err != nil || r.Items[0].GetAttestation().GetRule() == "" {
			missing = append(missing, n.Name)
			continue
		}
		noticed = append(noticed, n.Name)
		if rule := r.Items[0].Attestation.Rule; !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	return noticed, rules, missing
}
