package maker

import (
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// Clear takes the TPM from its owner as tpm2_clear and a firmware's "clear TPM" do:
// keys and NV indices of the owner are gone, the endorsement key and the maker's
// certificates stay.
func (s *SoftTPM) Clear() error {
	return s.use(func(d *tpm.Device) error {
		return d.Exclusive(func(t transport.TPM) error {
			_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(t)
			return err
		})
	})
}
