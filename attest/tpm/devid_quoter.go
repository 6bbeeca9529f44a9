package tpm

import (
	"bytes"
	"crypto/hmac"
	"errors"
)

// The checks of the AK of "bailiwick_tpm" in a key binding. They hold if there is none.

func ifQuoter(holds func(*devidAppraisal) error) func(*devidAppraisal) error {
	return ifBound(func(d *devidAppraisal) error {
		if d.response.BailiwickKeyBinding.Quoter == nil {
			return nil
		}
		return holds(d)
	})
}

func (d *devidAppraisal) quoterAttributes() (err error) {
	if d.quoterPub, err = parsePublic(d.response.BailiwickKeyBinding.Quoter.Public); err != nil {
		return err
	}
	d.quoterKey, _, err = signingKey(d.quoterPub, true)
	return err
}

func (d *devidAppraisal) quoterSignature() error {
	q := d.response.BailiwickKeyBinding.Quoter
	return verifyTPM(d.akAny, q.Attest, q.Signature)
}

func (d *devidAppraisal) quoterMagic() error {
	return magic(d.response.BailiwickKeyBinding.Quoter.Attest)
}

func (d *devidAppraisal) quoterType() (err error) {
	d.quoter, err = certification(d.response.BailiwickKeyBinding.Quoter.Attest)
	return err
}

func (d *devidAppraisal) quoterNonce() error {
	want := bindingData(d.nonce, d.exporter, d.csrSPKI, d.response.BailiwickKeyBinding.FeedPub)
	if !hmac.Equal(d.quoter.ExtraData.Buffer, want[:]) {
		return errors.New("certified for another session, channel, CSR or feed key")
	}
	return nil
}

func (d *devidAppraisal) quoterName() error { return certifiesKey(d.quoter, d.quoterPub) }

// quoterHierarchy: see akHierarchy. A certification names the path to the key that is
// certified, and certifiesKey has found it well formed.
func (d *devidAppraisal) quoterHierarchy() error {
	info, err := d.quoter.Attested.Certify()
	if err != nil {
		return err
	}
	if !bytes.Equal(info.QualifiedName.Buffer, qualifiedName(info.Name.Buffer)) {
		return errors.New("the AK is not a primary key of the endorsement hierarchy")
	}
	return nil
}
