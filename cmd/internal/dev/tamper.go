package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// tamperedPCR is where boot loaders measure what they were told to do.
const tamperedPCR = 8

// ErrAccepted means the region's issuer took evidence that it should refuse.
var ErrAccepted = errors.New("the tampered node attested all the same")

// Tamper measures something that is in no boot log into a node's TPM, as boot code
// that was changed would, and has the node attest. It returns what refused it, in
// a sentence, or an error that wraps ErrUnknownNode, ErrNotRunning or ErrAccepted.
// The TPM forgets when the fleet is stopped.
func Tamper(ctx context.Context, f *Fleet, name string) (string, error) {
	n, err := f.Node(name)
	if err != nil {
		return "", err
	}
	if _, ok := running(f, name); !ok {
		return "", fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	if err := measure(n); err != nil {
		return "", fmt.Errorf("TPM of %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout) // enrolment is a dozen TPM commands
	defer cancel()
	r, err := Control(n).Attest(ctx, &controlv1.AttestRequest{})
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if r.Ok {
		return "", fmt.Errorf("%s: %w", name, ErrAccepted)
	}
	if r.Rule == "" {
		return "", fmt.Errorf("%s: attestation failed for another reason: %s", name, r.Detail)
	}
	detail := r.Detail
	if _, reason, ok := strings.Cut(detail, r.Rule+": "); ok {
		detail = reason // without the way the refusal took
	}
	return fmt.Sprintf("%s: attestation refused by rule %s: %s", name, r.Rule, detail), nil
}

// measure extends a PCR once, by nothing anybody knows.
func measure(n Node) (err error) {
	soft, err := maker.Attach(n.TPMDir())
	if err != nil {
		return err
	}
	d, err := tpm.Open(soft.Path())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	var digest [32]byte
	if _, err := rand.Read(digest[:]); err != nil {
		return err
	}
	return d.Extend(tamperedPCR, digest)
}
