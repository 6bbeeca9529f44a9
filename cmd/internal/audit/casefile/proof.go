package casefile

import (
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Findings of Judgement.
var (
	// ErrNoProof means that a case file holds no evidence, so it shows nobody's guilt.
	ErrNoProof = errors.New("the case file holds no proof")

	// ErrNotGuilty means that evidence holds and convicts nobody.
	ErrNotGuilty = errors.New("what the evidence shows convicts nobody")
)

// Proof is what one piece of evidence shows to whoever believes the trust file.
type Proof struct {
	Accused  string   `json:"accused"`
	Class    string   `json:"class"`  // of the rule that was broken
	Digest   string   `json:"digest"` // names the finding, hex
	Epoch    uint64   `json:"epoch"`
	Convicts bool     `json:"convicts"`  // it is reason for quarantine
	Rule     string   `json:"rule"`      // what was broken, in words
	Shown    []string `json:"shown"`     // what was signed, a line each
	Counts   string   `json:"counts"`    // what still counts of the accused, and what not
	SignedBy string   `json:"signed_by"` // whose key, and who vouches for it
}

// rules are the classes in words: what was broken, and why no honest node does that.
var rules = map[string]string{
	feed.ClassEquivocation: "two different records in one place of one feed, both signed by its key: " +
		"a record is durable before it is sent, so an honest node signs one",
	feed.ClassForkUnattested: "two different records in one place of one feed, both signed by its key; no TPM backs the epoch, " +
		"and a copied disk does the same: the feed is frozen, and nobody convicted",
	feed.ClassClockBack: "a record that says it was written no later than the one before it, which it names: " +
		"a writer's clock only grows, whatever the machine's does",
	feed.ClassForeignKey: "a record that writes a key of another owner: only the owner's own are a writer's",
	feed.ClassFalseAccusation: "evidence against another that shows nothing, signed as evidence: " +
		"an honest node verifies a proof before it signs it as one",
	witness.Class: "two signed heads of one trail that no one history has: " +
		"a trail only grows, so an honest node signs no second one",
}

// Judgement answers whether the case file shows that somebody is guilty: all of it verifies, and a
// proof in it convicts.
func (r Report) Judgement() Verdict {
	for _, part := range []struct {
		name string
		Verdict
	}{{"integrity", r.Integrity}, {"completeness", r.Completeness}, {"report.html", r.Page}} {
		if !part.Good {
			return bad(fmt.Errorf("%s: %w", part.name, part.Err))
		}
	}
	if len(r.Proofs) == 0 {
		return bad(fmt.Errorf("%w: it was made where the evidence is not kept, or about something else", ErrNoProof))
	}
	for _, p := range r.Proofs {
		if p.Convicts {
			return Verdict{Good: true, Why: fmt.Sprintf("%s is guilty of %s", p.Accused, p.Class)}
		}
	}
	return bad(fmt.Errorf("%w: %s", ErrNotGuilty, r.Proofs[0].Class))
}

// proof verifies evidence by what the case file and the trust file vouch for.
func (k *checker) proof(b []byte) (Proof, error) { return Explain(b, k.epochKey, k.authority) }

// Explain verifies evidence, of a feed or of a trail, and tells what it shows. keys verifies epoch
// certificates, authority gives the key of a region's authority. Errors are of the evidence: it
// shows nothing.
func Explain(b []byte, keys feed.KeyFunc, authority func(spiffeid.TrustDomain) (*ecdsa.PublicKey, error)) (Proof, error) {
	if a, err := witness.ParseAccusation(b); err == nil {
		return trailProof(a, authority)
	}
	f, err := feed.VerifyProof(b, keys)
	if err != nil {
		return Proof{}, err
	}
	p := Proof{
		Accused: f.Accused.String(), Class: f.Class, Digest: hex.EncodeToString(f.Digest[:]), Epoch: f.Epoch, Convicts: f.Convicts(), Rule: rules[f.Class],
		Counts:   fmt.Sprintf("of epoch %d what was written up to record %d counts, nothing after it", f.Epoch, f.LastGood),
		SignedBy: fmt.Sprintf("the key of epoch %d, certified under the record root of %s", f.Epoch, f.Accused.TrustDomain()),
	}
	if f.Attested {
		p.SignedBy += " for a machine with a TPM"
	}
	headers, err := feed.Headers(b)
	if err != nil {
		return Proof{}, err
	}
	for _, h := range headers {
		p.Shown = append(p.Shown, fmt.Sprintf("record %d of epoch %d is %.16s, after %.16s, at %s by its clock, with %d ops",
			h.Seq, h.Epoch, h.ID(), h.Prev, h.HLC.Time().UTC().Format(time.RFC3339Nano), h.Count))
	}
	if key, index, ok := feed.ForeignKeyOf(b); ok {
		p.Shown = append(p.Shown, fmt.Sprintf("op %d of it writes %s", index, key))
	}
	if against, why, ok := feed.AccusedFalsely(b, keys); ok {
		p.Shown = append(p.Shown, fmt.Sprintf("evidence in it is against %s, and false: %s", against, why))
	}
	return p, nil
}

func trailProof(a witness.Accusation, authority func(spiffeid.TrustDomain) (*ecdsa.PublicKey, error)) (Proof, error) {
	owner, epoch, err := witnessing.Convict(a, authority)
	if err != nil {
		return Proof{}, err
	}
	digest := a.Digest()
	p := Proof{
		Accused: owner.String(), Class: witness.Class, Digest: hex.EncodeToString(digest[:]), Epoch: epoch, Convicts: true, Rule: rules[witness.Class],
		Counts:   "its trail is good for nothing that only one of the two heads has",
		SignedBy: fmt.Sprintf("the trail key, endorsed by the authority of %s for that machine's TPM", owner.TrustDomain()),
	}
	for _, note := range [][]byte{a.First, a.Second} {
		c, err := trail.OpenCheckpoint(note, a.Key)
		if err != nil {
			return Proof{}, err
		}
		p.Shown = append(p.Shown, fmt.Sprintf("a head of %d leaves with root %.16x", c.Size, c.Root))
	}
	return p, nil
}
