package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/custody"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/beside"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// protoCustody is the stream protocol of package custody: one question, half a close, one answer.
const protoCustody = "custody/1"

// openCustody makes this node a custodian of others' trails, and answers those of its own.
func (a *App) openCustody() {
	c := a.cfg.Trail.Custody
	if c.Every.Every() == 0 {
		return
	}
	a.custody = custody.New(custody.Config{
		Self: a.cfg.Node, Dir: filepath.Join(string(a.cfg.State), custody.DirName), Trail: filepath.Join(string(a.cfg.State), "trail"), Files: decisionsDir(a.cfg),
		Members: a.regionNodes, Ask: a.askCustody, File: segmentFile, Found: a.trailDiverges, Vouched: a.vouchedTrail, Beside: beside.Checks(),
		Copies: c.Copies, Every: c.Every.Every(), MaxBytes: int64(c.MaxBytes), Keep: a.retention(), Log: a.log, Metrics: a.metrics,
	})
	a.link.Handle(protoCustody, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		a.serveQuestion(ctx, peer, s, custody.MaxQuestion, a.custody.Answer)
	})
}

// regionNodes are the nodes of this region, this one among them.
func (a *App) regionNodes() []spiffeid.ID {
	out := []spiffeid.ID{a.cfg.Node}
	for _, n := range a.dir.neighbours() {
		out = append(out, n.id)
	}
	return out
}

// askCustody asks a peer about a trail. Over a link with a budget it takes as long as the budget has it.
func (a *App) askCustody(ctx context.Context, peer spiffeid.ID, question []byte, limit int) ([]byte, error) {
	b, err := a.askPeer(ctx, peer, protoCustody, question, limit)
	if budget := a.cfg.LinkTo(peer).Budget; budget > 0 && err == nil {
		select {
		case <-time.After(time.Duration(len(b)) * time.Second / time.Duration(budget)):
		case <-ctx.Done():
		}
	}
	return b, err
}

// vouchedTrail says who stands for the key of a trail: the authority, which endorsed it, or, where no TPM
// holds it, the node in its signed state.
func (a *App) vouchedTrail(owner spiffeid.ID, g trail.Genesis) error {
	v := witnessing.Vouched{Record: witnessing.Record{Trail: g.Verifier, Endorsement: g.Endorsement}, Owner: owner, Epoch: g.Epoch}
	if len(g.Endorsement) > 0 {
		return a.vouchedKeys(v)
	}
	shown, err := witnessing.ReadRecord(a.book.Record(owner))
	if err == nil && shown.Trail != g.Verifier {
		err = fmt.Errorf("%s shows another key, of epoch %d", owner, shown.Epoch)
	}
	return err
}

// trustBeside keeps beside the trail the trust records that what is in it was judged by.
func (a *App) trustBeside(ctx context.Context) error {
	for {
		err := beside.KeepTrust(ctx, a.trail.dir, a.trust)
		if err == nil {
			return nil
		}
		a.log.Warn("trust records could not be kept beside the trail", "err", err)
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return nil
		}
	}
}

// headsEvery is how many rounds of custody go by between two looks at all heads of the region.
const headsEvery = 12

// regionLog records, on the region's authority, what heads the region's nodes show of their trails: a
// node that rewrites or cuts off its own is held to what it signed.
func (a *App) regionLog(ctx context.Context) error {
	if a.authority == nil || a.custody == nil {
		return nil
	}
	known := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(headsEvery * a.cfg.Trail.Custody.Every.Every()):
		}
		shown, news := map[string]bool{}, [][]byte(nil)
		for _, h := range a.custody.Heads(ctx) {
			if shown[string(h)] = true; !known[string(h)] {
				news = append(news, h)
			}
		}
		if err := a.store.Update(func(tx *store.Tx) error { return trail.AppendHeads(tx, news) }); err != nil {
			a.log.Warn("heads of the region could not be recorded", "err", err)
			continue
		}
		known = shown
	}
}

// segmentFile is the segment of decisions that a leaf names.
func segmentFile(l trail.Leaf) (custody.File, bool) {
	name, digest, bytes, ok := decision.SegmentOf(l)
	return custody.File{Name: name, Digest: digest, Bytes: bytes}, ok
}

// trailDiverges records that a node's trail does not continue the copy that is held of it.
func (a *App) trailDiverges(owner spiffeid.ID, epoch uint64, err error) {
	a.log.Error("custody: a node's trail does not continue the copy held here", "owner", owner, "epoch", epoch, "err", err)
	if err := a.store.Update(func(tx *store.Tx) error {
		return trail.Append(tx, trail.CustodyConflict, map[string]any{"owner": owner.String(), "epoch": epoch, "why": err.Error()})
	}); err != nil {
		a.trail.gap(1, "a trail that diverges could not be recorded")
	}
}

// custodyStatus is who keeps this node's trail, whose it keeps, and what of it is wrong.
func (h handler) custodyStatus() (m *controlv1.Custody, warnings []string) {
	if h.custody == nil {
		return nil, nil
	}
	m = &controlv1.Custody{Wanted: uint32(min(h.custody.Copies(), len(h.regionNodes())-1))}
	for _, k := range h.custody.Custodians() {
		c := &controlv1.Custodian{SpiffeId: k.Custodian.String(), Epoch: k.Epoch, Leaves: k.Leaves, Behind: k.Behind, Whole: k.Whole}
		if !k.Heard.IsZero() {
			c.Heard = timestamppb.New(k.Heard)
		}
		if k.Whole {
			m.Whole++
		}
		if k.Err != nil {
			c.Trouble = k.Err.Error()
		}
		if errors.Is(k.Err, trail.ErrRollback) || errors.Is(k.Err, trail.ErrRoot) {
			warnings = append(warnings, fmt.Sprintf("custodian %s holds another trail of this node than this disk: %v; this disk is an older copy, or was changed", k.Custodian, k.Err))
		}
		m.Custodians = append(m.Custodians, c)
	}
	for _, k := range h.custody.Status() {
		m.Holds = append(m.Holds, &controlv1.HeldCopy{Owner: k.Owner.String(), First: k.First, Epoch: k.Epoch, Leaves: k.Leaves, Files: uint32(k.Files), Trouble: k.Trouble})
	}
	used, most := h.custody.Room()
	m.UsedBytes, m.MaxBytes = uint64(used), uint64(most)
	return m, warnings
}
