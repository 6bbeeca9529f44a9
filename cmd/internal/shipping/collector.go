package shipping

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
)

// ErrRoots means that the file of roots for the collector has no certificate in PEM.
var ErrRoots = errors.New("no certificate of the log collector's authority in the file")

// ErrToken means that the collector's token cannot be sent: it has to be one line of visible ASCII, of at most 8 KiB.
var ErrToken = errors.New("the log collector's token is not one line of visible characters")

// Collector says where logs go.
type Collector struct {
	URL       string // https, or http on this machine
	Roots     string // PEM file; empty: the system's
	TokenFile string // whose content is sent as a bearer token; empty: none
}

const (
	patience = 30 * time.Second // with one request
	maxRoots = 1 << 20
	maxToken = 8 << 10
)

// Sender returns what sends to the collector. Errors wrap ErrRoots or are the file system's; those of what it
// returns ErrToken, or are export.Send's.
func (c Collector) Sender() (func(context.Context, []byte) error, error) {
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, MaxIdleConns: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment}
	if c.Roots != "" {
		pem, err := bounded.ReadFile(c.Roots, maxRoots)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: %s", ErrRoots, c.Roots)
		}
	}
	client := &http.Client{Timeout: patience, Transport: bearer{t, c.TokenFile}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token is for this collector
	}}
	return func(ctx context.Context, request []byte) error { return export.Send(ctx, client, c.URL, request) }, nil
}

// bearer puts the token into each request, as its file has it then.
type bearer struct {
	to   http.RoundTripper
	file string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.file != "" {
		token, err := bounded.ReadFile(b.file, maxToken)
		if err != nil {
			return nil, err
		}
		line, err := oneLine(token)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, b.file)
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+line)
	}
	return b.to.RoundTrip(r)
}

func oneLine(token []byte) (string, error) {
	if n := len(token); n > 0 && token[n-1] == '\n' {
		token = token[:n-1]
	}
	for _, c := range token {
		if c <= ' ' || c > '~' {
			return "", ErrToken
		}
	}
	if len(token) == 0 {
		return "", ErrToken
	}
	return string(token), nil
}
