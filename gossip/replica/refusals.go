package replica

import (
	"fmt"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// refusals are the ops of one record that were not believed, by why.
type refusals []refusal

type refusal struct {
	why  string
	key  string // of the first
	err  error  // likewise
	more int
}

func (all *refusals) add(why, key string, err error) {
	if i := slices.IndexFunc(*all, func(one refusal) bool { return one.why == why }); i >= 0 {
		(*all)[i].more++
		return
	}
	*all = append(*all, refusal{why: why, key: key, err: err})
}

// refuseAll writes one refusal for each reason: the trail must not grow by a record many
// times over because somebody fills it with what nobody takes.
func (r *Replica) refuseAll(s *session, rec feed.Signed, all refusals) {
	for _, one := range all {
		if one.more > 0 {
			one.err = fmt.Errorf("%d ops of this record, the first: %w", one.more+1, one.err)
		}
		r.refuse(s, rec, one.why, one.key, one.err)
	}
}
