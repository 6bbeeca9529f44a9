package config

import (
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Decisions bounds the log of this node's decisions, <state>/decisions. What is recorded, and what is
// masked, is for policy to say.
type Decisions struct {
	// MaxBytes bounds its files: a number with the unit MiB or GiB, at least 16MiB, the largest file.
	// When it is exceeded the oldest file goes, denials and allows alike, and in the same step a
	// gap in the trail says how many decisions it held. Every denial keeps its leaf in the trail,
	// whatever goes; with trail.hold nothing goes. A smaller bound counts from the next start.
	// Default 64MiB.
	MaxBytes Size `yaml:"max_bytes"`
}

func (c *Config) checkDecisions(d *decoder) {
	l := &c.Policy.Decisions
	l.MaxBytes = orDefault(l.MaxBytes, decision.DefaultMaxBytes)
	if l.MaxBytes < decision.MaxSegmentFile {
		d.miss("policy.decisions.max_bytes", fmt.Sprintf("%dMiB", l.MaxBytes>>20), fmt.Sprintf("at least %dMiB, what the largest file of decisions may take", decision.MaxSegmentFile>>20))
	}
}
