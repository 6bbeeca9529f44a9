package replica

import "github.com/bailiwick-mesh/bailiwick/gossip/feed"

// Kinds of trail leaves. Their bodies have text keys: an auditor reads them.
const (
	LeafOut    = "state.out"
	LeafIn     = "state.in"
	LeafRefuse = "state.refuse"
)

// Out is the body of a LeafOut: one own record.
type Out struct {
	Epoch  uint64  `cbor:"epoch"`
	Seq    uint64  `cbor:"seq"`
	Record feed.ID `cbor:"record"`
	Ops    uint16  `cbor:"ops"`
}

// In is the body of a LeafIn: what one commit took from one feed, counted.
type In struct {
	Origin  string  `cbor:"origin"`
	Epoch   uint64  `cbor:"epoch"`
	Last    uint64  `cbor:"last"`   // seq of the newest
	Record  feed.ID `cbor:"record"` // its RecordID
	Records uint64  `cbor:"records"`
	Ops     uint64  `cbor:"ops"`
}

// Refuse is the body of a LeafRefuse: a record that was not believed, or ops of it, once for
// each reason.
type Refuse struct {
	Origin string  `cbor:"origin"` // who the record says it is from; unproven when the verdict is a relay's fault
	Epoch  uint64  `cbor:"epoch"`
	Seq    uint64  `cbor:"seq"`
	Record feed.ID `cbor:"record"`
	Relay  string  `cbor:"relay"`            // who handed it over
	Why    string  `cbor:"why"`              // a feed.Verdict, "schema", "policy" or what else Config.Apply says, "evidence", "own", or "store": all that was stored of the feed
	Key    string  `cbor:"key,omitempty"`    // of the first op, where ops are meant; Detail has how many more
	Detail string  `cbor:"detail,omitempty"` // for people, at most 512 bytes
}

const maxDetail = 512

func detail(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	return s[:min(len(s), maxDetail)]
}
