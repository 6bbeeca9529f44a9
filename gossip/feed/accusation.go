package feed

import (
	"errors"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// ClassFalseAccusation is the class of a finding against a node that signed, as evidence against
// another, what shows nothing.
const ClassFalseAccusation = "false-accusation"

// formFalse is a proof that a proof in somebody's record is false. See the package doc.
const formFalse = 3

// errShowsNothing is for a pair of headers that break no rule.
var errShowsNothing = errors.New("it shows nothing")

// errHolds is for an accusation that is not false, or of which nobody can tell.
var errHolds = errors.New("the accusation is not shown to be false")

// readAccusation reads what an accuser signed. Whether it is false takes keys.
func (p *parsedProof) readAccusation() error {
	if len(p.Second) > 0 || len(p.Leaf) > 0 || len(p.Path) > 0 {
		return errors.New("accusation with a second header or a leaf")
	}
	ops, err := Record{Signed: p.first, body: p.Body}.Ops()
	if err != nil {
		return err
	}
	if int(p.Index) >= len(ops) {
		return fmt.Errorf("op %d of a record of %d", p.Index, len(ops))
	}
	op := ops[p.Index]
	key, err := ParseKey(op.Key)
	if err != nil {
		return err
	}
	if key.Kind != KindEvidence || !key.OwnedBy(p.first.origin) || op.Action != Put {
		return fmt.Errorf("%s is no evidence that its origin put there", key)
	}
	p.accusation, p.broken, p.lastGood = op.Value, ClassFalseAccusation, p.first.Seq-1
	return nil
}

// refute says why evidence is false, in words. It is only where every version says the same: its
// headers parse, its certificate is good, and yet one is not signed by that key, or two break no
// rule. The error wraps errHolds, or ErrUncheckable.
func refute(b []byte, keys KeyFunc) (why string, err error) {
	p, perr := parseProof(b)
	//bailiwick:check TestFraming/a_newer_rule
	if perr != nil && !errors.Is(perr, errShowsNothing) || p.Form == formFalse {
		return "", fmt.Errorf("%w: %w", errHolds, errors.Join(perr, errors.New("another version may know its form")))
	}
	key, err := keys(p.Cert)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUncheckable, err)
	}
	if perr != nil {
		return perr.Error(), nil
	}
	for _, s := range p.headers() {
		//bailiwick:check TestFalseEvidence
		if err := s.Verify(key); err != nil {
			return err.Error(), nil
		}
	}
	return "", errHolds
}

// Accusation makes the proof that evidence in a record is false, where it is: op i of the record
// puts it, and key is that of the record's epoch. ok is false where nobody can tell, or where the
// record is too large to be shown. The record was verified, and its body is its header's.
func Accusation(rec Record, i int, key EpochKey, keys KeyFunc) (b []byte, ok bool) {
	b, err := statement.Marshal(proof{Form: formFalse, Cert: key.Cert, First: rec.Statement(), Index: uint16(i), Body: rec.body})
	if err != nil {
		return nil, false
	}
	_, err = VerifyProof(b, keys)
	return b, err == nil
}

// AccusedFalsely returns against whom the evidence in a proof of a false accusation was, and why it
// shows nothing, for showing them; ok is false for other proofs.
func AccusedFalsely(b []byte, keys KeyFunc) (against, why string, ok bool) {
	p, err := parseProof(b)
	if err != nil || p.Form != formFalse {
		return "", "", false
	}
	if why, err = refute(p.accusation, keys); err != nil {
		return "", "", false
	}
	inner, _ := parseProof(p.accusation) // its headers parse, or refute would not say why
	return inner.first.Origin, why, true
}
