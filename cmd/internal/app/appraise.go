package app

import (
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// The checks of evidence in a feed that are not the TPM's, before those of
// tpm.VerifyQuote, and the two rules about evidence that does not come.
const (
	ruleEndorsement = "endorsement" // the region's authority says whose AK this is
	ruleBeacon      = "beacon"      // the evidence is bound to a beacon of the authority
	ruleHead        = "feed-head"   // it has its place in the node's feed, after the evidence before

	ruleMissing = "attestation-missing"
	ruleStale   = "attestation-stale"
)

// evidenceRules are the checks in code, in the order in which they are made.
func evidenceRules() []string {
	return append([]string{ruleEndorsement, ruleBeacon, ruleHead}, tpm.QuoteRules()...)
}

// maxBehind is how many beacons evidence may be behind the newest known here and
// still count as news: the next one may be on its way.
const maxBehind = 2

// exhibit is everything one judgement rests on.
type exhibit struct {
	node        spiffeid.ID
	entry       replica.Entry // of the evidence
	endorsement []byte
	log         func(hash [32]byte) []byte // the boot log as the node shows it, or nil
	authority   *ecdsa.PublicKey           // of the node's region
	newest      uint64                     // the newest beacon known here
	before      judgement                  // of the node's evidence so far
}

// judgement is what one piece of evidence came to. The zero value has seen none.
type judgement struct {
	record     feed.ID
	epoch, seq uint64
	at         time.Time // when evidence last came that was news
	beacon     authority.Beacon

	rule, detail string // of what refused it; empty: every check in code passed
	endorsement  endorse.Endorsement
	proven       bool // claims are
	claims       tpm.QuoteClaims
	earlier      *judgement      // the one before this record, whose claims it must not fall behind
	decision     policy.Decision // of policy, asked where every check in code passed
}

// judge makes the checks in code. It is pure.
func judge(now time.Time, x exhibit) judgement {
	j := judgement{record: x.entry.Record, epoch: x.entry.Epoch, seq: x.entry.Seq, at: x.before.at}
	switch {
	case x.before.record == x.entry.Record: // again: policy changed, or an endorsement came
		j.earlier = x.before.earlier
	case !x.before.at.IsZero():
		b := x.before
		if !b.proven && b.earlier != nil {
			b = *b.earlier
		}
		b.earlier = nil
		j.earlier = &b
	}
	refuse := func(rule string, err error) judgement {
		j.rule, j.detail = rule, err.Error()
		return j
	}
	r, err := parseEvidence(x.entry.Value)
	if err != nil {
		return refuse(tpm.QuoteRules()[0], err) // the schema let it through: another version of it
	}
	if j.endorsement, err = endorse.Verify(x.endorsement, x.authority, x.node.TrustDomain(), now); err != nil {
		return refuse(ruleEndorsement, err)
	}
	if j.endorsement.ID != x.node {
		return refuse(ruleEndorsement, fmt.Errorf("it is that of %s", j.endorsement.ID))
	}
	keys := func(authority.Level) authority.Signers {
		return authority.Signers{Keys: []*ecdsa.PublicKey{x.authority}}
	}
	signed, err := authority.Open(r.Beacon, x.node.TrustDomain(), keys)
	if err == nil {
		j.beacon, err = signed.Beacon()
	}
	if err != nil {
		return refuse(ruleBeacon, err)
	}
	if x.before.record != x.entry.Record && j.beacon.Number+maxBehind >= x.newest {
		j.at = now
		if written := x.entry.HLC.Time(); written.Before(now) {
			j.at = written // it was here before this node started
		}
	}
	if err := placed(r, x.entry, j.earlier); err != nil {
		return refuse(ruleHead, err)
	}
	hash, err := tpm.BootLogOf(r.Evidence)
	if err != nil {
		return refuse(tpm.QuoteRules()[0], err)
	}
	want := tpm.Expected{
		AK: j.endorsement.AK, NodeKey: j.endorsement.NodeKey, Resets: j.endorsement.ResetCount, BootLog: x.log(hash),
		Qualifying: tpm.EpochQualifier(signed.Digest, x.node.String(), r.Head),
	}
	if j.earlier != nil && j.earlier.proven && j.earlier.endorsement.AK.Equal(j.endorsement.AK) && j.earlier.endorsement.NodeKey == j.endorsement.NodeKey {
		want.Previous = &j.earlier.claims // a TPM that was cleared counts anew, from what its new endorsement says
	}
	if j.claims, err = tpm.VerifyQuote(r.Evidence, want); err != nil {
		var check *tpm.CheckError
		errors.As(err, &check) // always is
		return refuse(check.Check, errors.New(check.Detail))
	}
	j.proven = true
	return j
}

// placed: the quote was made after the node's last evidence and before the record
// that carries it, so it cannot have been made for later use in one go.
func placed(r evidenceRecord, e replica.Entry, before *judgement) error {
	if r.Epoch > e.Epoch || r.Epoch == e.Epoch && r.Seq >= e.Seq {
		return fmt.Errorf("record %d/%d is bound to record %d/%d", e.Epoch, e.Seq, r.Epoch, r.Seq)
	}
	if before != nil && (r.Epoch < before.epoch || r.Epoch == before.epoch && r.Seq < before.seq) {
		return fmt.Errorf("it is bound to record %d/%d, and the evidence before it was in %d/%d", r.Epoch, r.Seq, before.epoch, before.seq)
	}
	return nil
}

// question puts what was proven into the words of policy. What only an enrolment
// proves (the EK's model and firmware) is absent; the maker's name is in the
// endorsement only if the EK's certificate led to an accepted maker.
func (j judgement) question(self *policy.Peer, now time.Time) policy.Input {
	in := attestInput(self, tpm.Claims{
		EKHash: j.endorsement.EKHash, EKMaker: j.endorsement.Maker, EKChain: j.endorsement.Maker != "",
		NodeKey: j.claims.NodeKey, Resident: j.claims.Resident, Counters: j.claims.Counters,
		PCRs: j.claims.PCRs, Boot: j.claims.Boot, ResetCount: j.claims.ResetCount, RestartCount: j.claims.RestartCount,
	}, now)
	return in
}

// refusal is the rule that refuses this evidence, and why.
func (j judgement) refusal() (rule, detail string) {
	switch {
	case j.record == feed.ID{}:
		return "", ""
	case j.rule != "":
		return j.rule, j.detail
	case !j.decision.Allow:
		return j.decision.Rule, j.decision.Told()
	}
	return "", ""
}

// finding is what is wrong with a node's attestation now: its evidence is refused,
// or none has come for 2.5 intervals in which it was connected.
func (j judgement) finding(now, connected time.Time, interval time.Duration) (rule, detail string) {
	if rule, detail = j.refusal(); rule != "" || connected.IsZero() || interval == 0 {
		return rule, detail
	}
	limit := interval * 5 / 2
	silent := now.Sub(connected)
	if j.at.IsZero() {
		if silent > limit {
			return ruleMissing, fmt.Sprintf("connected for %s, and no evidence of its machine has come", silent.Round(time.Second))
		}
		return "", ""
	}
	if silent = min(silent, now.Sub(j.at)); silent > limit {
		return ruleStale, fmt.Sprintf("the last evidence of its machine came %s ago", now.Sub(j.at).Round(time.Second))
	}
	return "", ""
}

// ekHash is the machine's name in decisions.
func (j judgement) ekHash() string { return hex.EncodeToString(j.endorsement.EKHash[:]) }

// appraise asks policy about a machine's verified claims.
func (a *App) appraise(ctx context.Context, c tpm.Claims) (issuer.Record, error) {
	in := attestInput(a.subjects.node(a.cfg.Node), c, time.Now())
	return a.judge(ctx, in, in.Attest.EK.SHA256)
}

// judgeProved asks policy about a machine that other evidence spoke for.
func (a *App) judgeProved(ctx context.Context, method string, proved issuer.Attested) (issuer.Record, error) {
	return a.judge(ctx, provedInput(a.subjects.node(a.cfg.Node), method, proved, time.Now()), proved.Name)
}

// judge asks policy about evidence of the agent of this name. An allow is recorded with
// the admission.
func (a *App) judge(ctx context.Context, in policy.Input, name string) (issuer.Record, error) {
	id, err := issuer.AgentID(a.cfg.Node.TrustDomain(), in.Attest.Method, name)
	if err != nil {
		return nil, err
	}
	in.Source = &policy.Peer{SPIFFEID: id.String(), TrustDomain: id.TrustDomain().Name(), Path: segments(id), Region: in.Self.Region}
	d, keep := a.decisions.DecideWithin(ctx, in)
	if !d.Allow {
		return nil, fmt.Errorf("rule %s: %s (decision %.8s)", d.Rule, d.Told(), d.ID)
	}
	return keep, nil
}
