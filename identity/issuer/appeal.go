package issuer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// DESIGN's one appeal channel is this, and no protocol of its own. An appeal rides on an attestation: the machine proves itself as for an agent SVID, gets none,
// and what it has to say goes to the region's authority instead. The note is metadata of the call.
// It needs no signature of its own: the proof is bound to the TLS channel, and so to whoever
// speaks on it. A node without a TPM proves what it enrolled by, or that it holds the key of its
// feed (EpochProof); then nothing is known of its machine, and EKHash is zero. A node that is shut out has no other way: peers cut its sessions, and its SVIDs
// may have expired.
const (
	AppealKey   = "bailiwick-appeal-bin" // of the metadata: the note, UTF-8
	AppealTaken = "bailiwick-appeal"     // of the trailer: "taken"

	maxAppeal = 1024 // bytes of a note
)

// Appeal is what a node that gets nothing at present has to say, and what its machine proved.
type Appeal struct {
	Node   spiffeid.ID
	Note   string   // 1 to 1024 bytes, as received
	EKHash [32]byte // zero: no TPM vouches for the machine
	Resets uint32
	Starts uint64 // and Epoch: the TPM's counters; without a TPM Epoch is that of the key that spoke
	Epoch  uint64
}

// noteOf returns the note of a call; empty where it is no appeal.
func noteOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if notes := md.Get(AppealKey); len(notes) > 0 {
		return notes[0]
	}
	return ""
}

// appeal passes on what an attested machine has to say, and issues nothing.
func (s *Server) appeal(ctx context.Context, tell func(metadata.MD), id spiffeid.ID, kind, note string, attested Attested, from netip.Addr) error {
	node, known := s.entries.Load().node(id)
	if !attested.Speaker.IsZero() {
		node, known = Entry{SPIFFEID: id}, true
	}
	switch {
	case s.cfg.Appeal == nil:
		return status.Error(codes.FailedPrecondition, "this issuer takes no appeals")
	case len(note) > maxAppeal:
		return status.Errorf(codes.InvalidArgument, "a note of %d bytes, at most %d", len(note), maxAppeal)
	case attested.Unbound:
		return status.Error(codes.FailedPrecondition, "an appeal of a machine with a TPM needs a quote that vouches for its key: ask the operator of the region's authority")
	case !known:
		return status.Errorf(codes.FailedPrecondition, "no entry gives %s a name", id)
	case s.standing(id) == nil && s.standing(node.SPIFFEID) == nil:
		return status.Errorf(codes.FailedPrecondition, "nothing is held against %s", node.SPIFFEID)
	}
	a := Appeal{Node: node.SPIFFEID, Note: note, Epoch: attested.Epoch}
	if attested.TPM {
		a.EKHash, a.Resets, a.Starts = attested.EKHash, attested.ResetCount, attested.Starts
	}
	err := s.cfg.Appeal(ctx, a)
	switch {
	case errors.Is(err, ErrAuthorityAway):
		return status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	err = s.cfg.Store.Update(func(tx *store.Tx) error {
		return leaf(tx, leafAttest, attestLeaf{Type: kind, Agent: id.String(), From: from.String(), OK: true, Why: fmt.Sprintf("%s appeals: nothing was issued", node.SPIFFEID)})
	})
	if err != nil {
		return unavailable(err)
	}
	tell(metadata.Pairs(AppealTaken, "taken"))
	return nil
}
