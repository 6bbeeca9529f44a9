package replica

import "github.com/bailiwick-mesh/bailiwick/gossip/feed"

// Kinds of trail leaves.
const (
	LeafOut    = "state.out"
	LeafIn     = "state.in"
	LeafRefuse = "state.refuse"
)

// Out is the body of a LeafOut: one own record.
type Out struct {
	Epoch  uint64  `cbor:"1,keyasint"`
	Seq    uint64  `cbor:"2,keyasint"`
	Record feed.ID `cbor:"3,keyasint"`
	Ops    uint16  `cbor:"4,keyasint"`
}

// In is the body of a LeafIn: what one commit took from one feed, counted.
type In struct {
	Origin  string  `cbor:"1,keyasint"`
	Epoch   uint64  `cbor:"2,keyasint"`
	Last    uint64  `cbor:"3,keyasint"` // seq of the newest
	Record  feed.ID `cbor:"4,keyasint"` // its RecordID
	Records uint64  `cbor:"5,keyasint"`
	Ops     uint64  `cbor:"6,keyasint"`
}

// Refuse is the body of a LeafRefuse: a record or an op that was not believed.
type Refuse struct {
	Origin string  `cbor:"1,keyasint"` // who the record says it is from; unproven when the verdict is a relay's fault
	Epoch  uint64  `cbor:"2,keyasint"`
	Seq    uint64  `cbor:"3,keyasint"`
	Record feed.ID `cbor:"4,keyasint"`
	Relay  string  `cbor:"5,keyasint"`           // who handed it over
	Why    string  `cbor:"6,keyasint"`           // a feed.Verdict, "policy", "evidence" or "own"
	Key    string  `cbor:"7,keyasint,omitempty"` // of the op, where one op is meant
	Detail string  `cbor:"8,keyasint,omitempty"` // for people, at most 512 bytes
}

const maxDetail = 512

func detail(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	return s[:min(len(s), maxDetail)]
}
