package issuer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// ErrAppraisal means evidence is genuine, but policy does not accept what it
// shows. The wrapped error names the rule.
var ErrAppraisal = errors.New("policy does not accept this machine")

// TPM is the Attestor of "bailiwick_tpm". The agent ID is
// /spire/agent/bailiwick_tpm/<hex of the EK hash>.
type TPM struct {
	// Verifier makes the checks that are not up to policy. Required.
	Verifier *tpm.Verifier
	// Appraise lets policy judge the claims; its error goes back to the node and
	// should name the rule. What it records of an acceptance may be nil. A nil Appraise
	// refuses everything.
	Appraise func(context.Context, tpm.Claims) (Record, error)
}

// Type returns "bailiwick_tpm".
func (TPM) Type() string { return "bailiwick_tpm" }

// Attest runs the exchange of package tpm: payload is the hello, one challenge,
// the response is the proof. Errors match tpm.ErrRefused or ErrAppraisal.
func (t TPM) Attest(ctx context.Context, e Evidence, exchange func([]byte) ([]byte, error)) (Attested, error) {
	if t.Verifier == nil || t.Appraise == nil {
		return Attested{}, fmt.Errorf("%w: nobody here appraises machines", ErrAppraisal)
	}
	session, err := t.Verifier.Begin(e.Now, e.Payload)
	if err != nil {
		return Attested{}, err
	}
	proof, err := exchange(session.Challenge())
	if err != nil {
		return Attested{}, err
	}
	claims, err := session.Finish(time.Now(), proof, e.Exporter, e.CSRKey)
	if err != nil {
		return Attested{}, err
	}
	record, err := t.Appraise(ctx, claims)
	if err != nil {
		return Attested{}, fmt.Errorf("%w: %w", ErrAppraisal, err)
	}
	return Attested{
		Name:       hex.EncodeToString(claims.EKHash[:]),
		Reattest:   true,
		TPM:        true,
		EKHash:     claims.EKHash,
		Maker:      strings.ToValidUTF8(claims.EKMaker[:min(len(claims.EKMaker), 64)], ""),
		AK:         claims.AKPub,
		NodeKey:    claims.NodeKey,
		FeedKey:    claims.FeedKey,
		TrailKey:   claims.TrailKey,
		ResetCount: claims.ResetCount,
		Starts:     claims.Counters.Starts,
		Epoch:      claims.Counters.Epoch,
		Judged:     record,
	}, nil
}
