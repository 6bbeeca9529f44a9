package spire

import (
	"context"
	"crypto/tls"

	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer/issuerv1"
)

// MaxTrustRecords is the most records TrustRecords returns.
const MaxTrustRecords = 256

// maxRecords bounds an answer of whoever it is, in bytes: some hundred regions.
const maxRecords = 1 << 20

// TrustRecords asks whoever answers at addr for the trust records it knows. It is for a
// node that was away while its region's roots were replaced, so nothing is known of who
// answers, and nothing is sent. A record is to be believed for its signatures alone
// (trust.Set.Apply); a liar can withhold records, or repeat old ones, which changes
// nothing. What is beyond MaxTrustRecords is dropped. Errors are as for a Client.
func TrustRecords(ctx context.Context, addr string) ([][]byte, error) {
	c := identity.ClientTLS(nil, nil, nil)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.DidResume {
			return identity.ErrResumed
		}
		return nil // anybody may answer: see above
	}
	conn, err := Config{Addr: addr}.open(c, maxRecords)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := issuerv1.NewIssuerClient(conn).TrustRecords(ctx, &issuerv1.TrustRecordsRequest{})
	records := resp.GetTrustRecords()
	return records[:min(len(records), MaxTrustRecords)], conn.explain(err)
}
