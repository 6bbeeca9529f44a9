package casefile

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// Findings of Verify beside those of package trail.
var (
	// ErrKey means that nothing the reader trusts vouches for a trail's key: the
	// trail is its own word.
	ErrKey = errors.New("nothing in the trust file vouches for the trail key")

	// ErrFork means that the head in the case file and the head that the trust file
	// remembers have one size and different roots, both signed by the trail key.
	ErrFork = errors.New("the trail key signed two different histories")

	// ErrReport means that the report says something else than the entries.
	ErrReport = errors.New("the report is not what the entries of the case file say")

	// ErrMissing means that a case file of a span lacks leaves of the span.
	ErrMissing = errors.New("a leaf of the span is missing")
)

// Verdict answers one question about a case file. The zero value is no approval.
type Verdict struct {
	Good bool   `json:"good"`
	Why  string `json:"why"` // on what it rests, or what is wrong
	Err  error  `json:"-"`   // the first thing found wrong

	Leaf *BadLeaf `json:"leaf,omitempty"` // where it is, where it is a leaf's
}

// BadLeaf is the first leaf that cannot be relied on, and what that breaks.
type BadLeaf struct {
	Origin string    `json:"origin"`
	Index  uint64    `json:"index"`
	At     time.Time `json:"at,omitzero"` // as the leaf says or, where it cannot be read, the last one before it
	Breaks string    `json:"breaks"`
}

// leafError is an error about one leaf.
type leafError struct {
	BadLeaf
	err error
}

func (e *leafError) Unwrap() error { return e.err }

func (e *leafError) Error() string {
	about := ""
	if !e.At.IsZero() {
		about = ", about " + e.At.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("leaf %d%s: %v; it breaks %s", e.Index, about, e.err, e.Breaks)
}

func (v Verdict) String() string {
	if v.Good {
		return "good: " + v.Why
	}
	return v.Why
}

func bad(err error) Verdict {
	v := Verdict{Why: err.Error(), Err: err}
	if at := (*leafError)(nil); errors.As(err, &at) {
		v.Leaf = &at.BadLeaf
	}
	return v
}

// TrailReport is what was found of one trail.
type TrailReport struct {
	Origin     string    `json:"origin"`
	Node       string    `json:"node"`
	Protection string    `json:"protection"` // of the trail key, as the genesis says
	Size       uint64    `json:"size"`       // leaves under the head
	Root       string    `json:"root"`       // hex
	Leaves     int       `json:"leaves"`     // in the case file
	Key        Verdict   `json:"key"`        // who vouches for the trail key
	Witnessed  Witnessed `json:"witnessed"`  // what peers saw of it
}

// Report is what Verify found.
type Report struct {
	Question Question      `json:"question"`
	MadeAt   time.Time     `json:"made_at"`
	MadeBy   string        `json:"made_by"`
	Trails   []TrailReport `json:"trails"`

	// Integrity: every leaf is under a head that its trail's key signed, every other
	// entry is the one that a leaf names, and somebody the reader trusts vouches for
	// the keys.
	Integrity Verdict `json:"integrity"`
	// Completeness: no leaf of the span is missing. It is good also where leaves were
	// chosen, and then says that nobody can tell.
	Completeness Verdict `json:"completeness"`
	// Page is about report.html.
	Page Verdict `json:"report"`

	// Certificates are those in leaves: what nodes received.
	Certificates Certificates `json:"certificates"`
	// Dated says what was seen by witnesses only after the certificate of its key had ended.
	Dated Dated `json:"dated"`

	Facts     []fact.Fact `json:"facts"`
	Decisions int         `json:"decisions"`
	Policies  int         `json:"policies"`
	Evidence  int         `json:"evidence"`

	Proofs []Proof `json:"proofs"` // what each piece of evidence shows; beside Integrity: only where that is good
}

// Good reports whether the case file can be relied on.
func (r Report) Good() bool { return r.Integrity.Good && r.Completeness.Good && r.Page.Good }

// Verify reads a case file and checks everything in it, starting with t. It needs no
// network and no clock. What is wrong with the case file is in the Report; the error
// is that of Read, for what is no case file at all.
func Verify(b []byte, t Trust) (Report, error) {
	c, err := Read(b)
	if err != nil {
		return Report{}, err
	}
	r := Report{Question: c.Manifest.Question, MadeAt: c.Manifest.MadeAt, MadeBy: c.Manifest.MadeBy, Trails: []TrailReport{}, Facts: []fact.Fact{}, Proofs: []Proof{}}
	chk := checker{c: c, t: t, r: &r, terms: map[int]term{}, vouches: make([]term, len(c.Leaves))}
	if err := chk.run(); err != nil {
		r.Integrity, r.Completeness = bad(err), bad(trail.ErrUnjudged)
	} else {
		r.Integrity = Verdict{Good: true, Why: fmt.Sprintf("%d leaves of %d trails are under heads whose keys are vouched for", len(r.Facts), len(r.Trails))}
		r.Completeness = chk.complete()
	}
	r.Page = c.page()
	return r, nil
}

// checker goes through a case file.
type checker struct {
	c Case
	t Trust
	r *Report

	heads   []trail.Checkpoint
	began   []time.Time    // of each trail
	said    []trail.Proven // every proven leaf, as in Report.Facts
	trusted []trust.Record // of the case file, signed by the global keys; oldest first
	terms   map[int]term   // of the certificates in leaves, by their place in said
	vouches []term         // of the endorsement of each trail's key; zero: none is needed
}

func (k *checker) run() error {
	if err := k.records(); err != nil {
		return err
	}
	for n, o := range k.c.Manifest.Trails {
		if err := k.trail(n, o); err != nil {
			return fmt.Errorf("%s: %w", o.Origin, err)
		}
	}
	if len(k.heads) == 0 {
		return fmt.Errorf("%w: it has no trail", ErrEntry)
	}
	if err := k.witnessed(); err != nil {
		return err
	}
	if err := k.certificates(); err != nil {
		return err
	}
	k.dated()
	return k.named()
}

// trail checks the proofs of one trail, and who vouches for its key.
func (k *checker) trail(n int, o Origin) error {
	tr := TrailReport{Origin: o.Origin, Leaves: len(k.c.Leaves[n])}
	var genesis trail.Genesis
	var head trail.Checkpoint
	for i, l := range k.c.Leaves[n] {
		p, err := trail.VerifyProof(l.Raw, l.Proof, o.Verifier)
		if err != nil {
			return k.badLeaf(o.Origin, l, err)
		}
		switch {
		case p.Index != l.Index:
			return fmt.Errorf("%w: leaf %d is filed as %d", ErrEntry, p.Index, l.Index)
		case i == 0:
			if genesis, err = trail.ReadGenesisLeaf(p.Leaf); err != nil {
				return err
			}
			head = p.Head
			k.began = append(k.began, p.At)
		case !bytes.Equal(head.Raw, p.Head.Raw):
			return fmt.Errorf("%w: leaf %d is proven under another head than the genesis", ErrEntry, l.Index)
		}
		k.said = append(k.said, p)
		k.r.Facts = append(k.r.Facts, fact.Read(o.Origin, p.Indexed))
	}
	origin, err := genesis.Origin()
	if err != nil {
		return err
	}
	if origin != o.Origin || head.Origin != o.Origin || genesis.Verifier != o.Verifier {
		return fmt.Errorf("%w: the genesis is of %s or names another key", trail.ErrLeaf, origin)
	}
	k.heads = append(k.heads, head)
	tr.Node, tr.Protection, tr.Size, tr.Root = genesis.Node, genesis.Protection, head.Size, fmt.Sprintf("%x", head.Root)
	tr.Key = k.vouched(n, genesis, head)
	k.r.Trails = append(k.r.Trails, tr)
	if !tr.Key.Good {
		return tr.Key.Err
	}
	return nil
}

// badLeaf says what rests on a leaf that is not proven.
func (k *checker) badLeaf(origin string, l Leaf, err error) error {
	e := &leafError{BadLeaf{Origin: origin, Index: l.Index, Breaks: "that fact alone"}, err}
	if len(k.said) > 0 && l.Index > 0 {
		e.At = k.said[len(k.said)-1].At
	}
	if l.Index == 0 {
		e.Breaks = "every fact of this trail: it says whose the key is"
	}
	leaf, perr := trail.ParseLeaf(l.Raw)
	if perr != nil {
		return e
	}
	e.At = leaf.At
	f := fact.Read(origin, trail.Indexed{Index: l.Index, Leaf: leaf})
	switch leaf.Kind {
	case trail.DecisionDeny.Name():
		e.Breaks = "decision " + f.Field("id") + " and its input"
	case trail.PolicyActivate.Name():
		e.Breaks = "what was decided under the policy " + f.Field("content")
	case trail.PeerFinding.Name():
		e.Breaks = "the finding " + f.Field("digest") + " against " + f.Field("accused")
	}
	return e
}

// vouched says who stands for a trail key: the trust file, or the region's authority.
func (k *checker) vouched(n int, g trail.Genesis, head trail.Checkpoint) Verdict {
	o, began := k.c.Manifest.Trails[n], k.began[n]
	if known, ok := k.t.Known(o.Origin); ok {
		if known.Verifier != o.Verifier {
			return bad(fmt.Errorf("%w: the trust file knows another key for this trail", ErrKey))
		}
		if known.Head != "" {
			if forked, err := trail.Fork([]byte(known.Head), head.Raw, o.Verifier); err != nil || forked {
				return bad(errors.Join(ErrFork, err))
			}
		}
		return Verdict{Good: true, Why: "the trust file names it"}
	}
	if len(g.Endorsement) == 0 {
		return bad(fmt.Errorf("%w: it is kept in %s and carries no endorsement; a trust file must name it", ErrKey, g.Protection))
	}
	key, err := trail.PKIX(o.Verifier)
	if err != nil {
		return bad(err)
	}
	node, err := spiffeid.FromString(g.Node)
	if err != nil {
		return bad(err)
	}
	var by trust.Record
	err = k.under(node.TrustDomain(), func(r trust.Record) error {
		if !began.Before(r.NotAfter) {
			return fmt.Errorf("trust record %d had ended when the trail began", r.Version)
		}
		e, err := endorse.VerifyTrailKey(g.Endorsement, r.AuthorityKey, node, key, began)
		if err != nil {
			return fmt.Errorf("endorsement: %w", err)
		}
		by, k.vouches[n] = r, term{began, e.Expires}
		return nil
	})
	if err != nil {
		return bad(fmt.Errorf("%w: %w", ErrKey, err))
	}
	return Verdict{Good: true, Why: fmt.Sprintf("endorsed by the authority of %s, which trust record %d names, signed by the global keys", by.TrustDomain, by.Version)}
}
