package governing

import (
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// Overtaken ends the name of a key that carries what was in force before the staged record beside it.
const Overtaken = ".overtaken"

// NameOf is the last segment of the key that carries a policy record.
func NameOf(r *bundle.Record) string {
	digest := statement.Digest([]byte(r.Scope)) // may be longer than a segment
	name := fmt.Sprintf("%s.%x", r.Level, digest[:8])
	if r.Mode == bundle.Shadow {
		name += "." + bundle.Shadow
	}
	return name
}

// Carried are the records that this node passes on, of those that it may, by their names: of each scope
// the newest and, while that is staged, beside it what was in force before. What travels by file only is
// not among them.
func (p *Policies) Carried(may func(bundle.Kept) bool) map[string][]byte {
	out, staged := map[string][]byte{}, map[string]bool{}
	for _, k := range p.Kept() {
		name := NameOf(&k.Record)
		if staged[name] && p.Enforced(&k.Record, k.Name) {
			name += Overtaken
		}
		if out[name] != nil || !may(k) || len(k.Statement) > feed.MaxValue || k.Record.Travels() != nil {
			continue // an older one, one that came here by itself, or one that travels by file only
		}
		out[name], staged[name] = k.Statement, k.Record.Rollout != nil
	}
	return out
}

// Content returns what is held of a content, by the digest of its chunks.
func (p *Policies) Content(chunks [32]byte) []byte {
	for _, v := range p.InForce() {
		if v.Record.Chunks == chunks {
			return v.Packed()
		}
	}
	for _, k := range p.Kept() {
		if k.Record.Chunks != chunks {
			continue
		}
		if b, err := p.book.Content(k.Record.Level, k.Record.Scope, k.Record.Version); err == nil {
			return b
		}
	}
	return nil
}
