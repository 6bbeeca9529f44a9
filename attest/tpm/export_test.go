package tpm

import (
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Secret is what the challenge of s hides.
func (s *Session) Secret() []byte { return s.state.secret }

// Resume makes the session of a recorded exchange.
func (v *Verifier) Resume(began time.Time, hello, challenge, secret []byte) (*Session, error) {
	s, err := v.Begin(began, hello)
	if err != nil {
		return nil, err
	}
	s.challenge, s.state.challengeBytes, s.state.secret = challenge, challenge, secret
	return s, statement.Unmarshal(challenge, &s.state.challenge)
}

// EKP384 is the template of the P-384 EK.
var EKP384 = ekP384

// ResidentTemplate is the template of resident keys.
func ResidentTemplate() tpm2.TPMTPublic { return residentKey }
