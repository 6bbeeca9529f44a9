package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
)

// InMemory attests for a node whose own key is not in the TPM: the key is named in
// the hello, so that everything the TPM signs is bound to it. Its Hello and Prove
// are those of Keys.
type InMemory struct {
	keys *Keys
	node *ecdsa.PublicKey
	pkix []byte
}

// InMemory returns what attests for node, which must be on P-256.
func (k *Keys) InMemory(node *ecdsa.PublicKey) (*InMemory, error) {
	pkix, err := x509.MarshalPKIXPublicKey(node)
	if err != nil {
		return nil, err
	}
	if _, err := inMemoryKey(pkix); err != nil {
		return nil, err
	}
	return &InMemory{keys: k, node: node, pkix: pkix}, nil
}

// Hello makes the first message.
func (m *InMemory) Hello(feedPub, bootLog []byte) ([]byte, error) {
	return m.keys.hello(Hello{NodeKey: m.pkix}, feedPub, bootLog)
}

// Prove answers a challenge.
func (m *InMemory) Prove(hello, challenge, exporter, csrSPKI, bootLog []byte) ([]byte, error) {
	return m.keys.prove(m.node, nil, hello, challenge, exporter, csrSPKI, bootLog)
}

// resident reports whether the node key is said to be in the TPM.
func (a *appraisal) resident() bool { return len(a.hello.NodeKey) == 0 }

// ifResident makes a check that has no object where the node key is in memory.
func ifResident(holds func(*appraisal) error) func(*appraisal) error {
	return func(a *appraisal) error {
		if !a.resident() {
			return nil
		}
		return holds(a)
	}
}

func residentChecks(checks []check[*appraisal]) (out []check[*appraisal]) {
	for _, c := range checks {
		out = append(out, check[*appraisal]{c.rule, ifResident(c.holds)})
	}
	return out
}

func (a *appraisal) nodeForm() (err error) {
	if !a.resident() {
		a.nodeKey, err = inMemoryKey(a.hello.NodeKey)
	}
	return err
}

func inMemoryKey(pkix []byte) (*ecdsa.PublicKey, error) {
	if len(pkix) > maxPublic {
		return nil, fmt.Errorf("node key of %d bytes", len(pkix))
	}
	parsed, err := x509.ParsePKIXPublicKey(pkix)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("node key is not on P-256")
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, pkix) {
		return nil, errors.New("node key is not in its one spelling")
	}
	return key, nil
}
