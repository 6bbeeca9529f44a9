package dev

import (
	"context"
	"fmt"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// Cut has every node refuse the packets of the other side: the region's nodes
// those of all other regions, the other nodes those of the region. With refuse
// false it ends that. All nodes that run are asked; errors name those that failed,
// and wrap ErrUnknownRegion where the label is wrong, ErrNotRunning where nobody runs.
func Cut(ctx context.Context, f *Fleet, region string, refuse bool) error {
	i := slices.IndexFunc(f.Regions, func(r Region) bool { return r.Label == region })
	if i < 0 {
		var labels []string
		for _, r := range f.Regions {
			labels = append(labels, r.Label)
		}
		return fmt.Errorf("%s: %w: it has %v", region, ErrUnknownRegion, labels)
	}
	up := slices.DeleteFunc(f.honest(), func(n Node) bool { _, ok := running(f, n.Name); return !ok })
	if len(up) == 0 {
		return ErrNotRunning
	}
	return ask(ctx, up, func(ctx context.Context, n Node, c controlv1.ControlClient) error {
		for _, r := range f.Regions {
			if (n.Region == region) == (r.Label == region) {
				continue // the same side
			}
			if _, err := c.Partition(ctx, &controlv1.PartitionRequest{TrustDomain: r.TrustDomain, Refuse: refuse}); err != nil {
				return err
			}
		}
		return nil
	})
}
