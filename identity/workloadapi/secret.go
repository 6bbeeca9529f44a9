package workloadapi

import (
	"bytes"
	"encoding/pem"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The names of secrets, beside SPIFFE IDs and the IDs of trust domains. They are
// those of spire-agent.
const (
	defaultSVID   = "default" // of the first identity
	defaultBundle = "ROOTCA"  // of the region
	allBundles    = "ALL"     // of all trust domains, by name
)

// validator is Envoy's own check of SPIFFE IDs against the bundle of their trust
// domain: without it a root of one domain could vouch for names of another.
const validator = "envoy.tls.cert_validator.spiffe"

// noValidator in a node's metadata asks for plain roots instead.
const noValidator = "disable_spiffe_cert_validation"

// secrets returns what req subscribes to, for a caller that was looked at: all that
// it names, or everything if it names nothing.
func (s sds) secrets(c Caller, req *discoveryv3.DiscoveryRequest) ([]*anypb.Any, error) {
	if t := req.GetTypeUrl(); t != "" && t != secretType {
		return nil, status.Errorf(codes.InvalidArgument, "type %q is not served here, only %s", t, secretType)
	}
	names := slices.DeleteFunc(slices.Clone(req.GetResourceNames()), func(n string) bool { return n == "" })
	if len(names) > maxNames {
		return nil, status.Errorf(codes.InvalidArgument, "%d resource names, at most %d", len(names), maxNames)
	}
	all, err := s.cfg.Source.Identities(c.shows)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "no identities to give yet: %v", err)
	}
	identities, _ := usable(all, time.Now())
	bundles := s.cfg.Source.Bundles()
	if len(names) == 0 {
		for _, b := range bundles {
			names = append(names, b.TrustDomain().IDString())
		}
		for _, i := range identities {
			names = append(names, i.SVID.ID.String())
		}
	}
	var out []*anypb.Any
	var unknown []string
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		secret, err := s.secret(name, identities, bundles, plainRoots(req.GetNode()))
		switch {
		case err != nil:
			return nil, err
		case secret == nil:
			unknown = append(unknown, strconv.Quote(name))
			continue
		}
		secret.Name = name
		resource := new(anypb.Any)
		if err := anypb.MarshalFrom(resource, secret, proto.MarshalOptions{Deterministic: true}); err != nil {
			return nil, status.Errorf(codes.Internal, "secret %q: %v", name, err)
		}
		out = append(out, resource)
	}
	if len(unknown) > 0 {
		return nil, status.Errorf(codes.InvalidArgument, "workload is not authorized for the requested identities [%s]", strings.Join(unknown, " "))
	}
	return out, nil
}

// secret returns the one of a name, nil if the caller has none of it.
func (s sds) secret(name string, identities []Identity, bundles []*spiffebundle.Bundle, plain bool) (*tlsv3.Secret, error) {
	if name == allBundles && len(bundles) > 0 {
		if plain {
			return nil, status.Errorf(codes.Internal, "%q needs Envoy's SPIFFE validator, which this client does not want", name)
		}
		return validation(bundles)
	}
	for _, b := range bundles {
		if name == b.TrustDomain().IDString() || (name == defaultBundle && b.TrustDomain() == s.cfg.TrustDomain) {
			if plain {
				return &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
					TrustedCa: inline(rootsPEM(b)),
				}}}, nil
			}
			return validation([]*spiffebundle.Bundle{b})
		}
	}
	for n, i := range identities {
		if name == i.SVID.ID.String() || (name == defaultSVID && n == 0) {
			chain, key, err := i.SVID.Marshal()
			if err != nil {
				return nil, status.Errorf(codes.Internal, "key of %s cannot be handed out: %v", i.SVID.ID, err)
			}
			return &tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: inline(chain), PrivateKey: inline(key),
			}}}, nil
		}
	}
	return nil, nil
}

// validation is the context in which each trust domain is verified by its own roots.
func validation(bundles []*spiffebundle.Bundle) (*tlsv3.Secret, error) {
	config := &tlsv3.SPIFFECertValidatorConfig{}
	for _, b := range bundles {
		config.TrustDomains = append(config.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
			Name: b.TrustDomain().Name(), TrustBundle: inline(rootsPEM(b)),
		})
	}
	slices.SortFunc(config.TrustDomains, func(a, b *tlsv3.SPIFFECertValidatorConfig_TrustDomain) int {
		return strings.Compare(a.Name, b.Name)
	})
	typed, err := anypb.New(config)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "validation context: %v", err)
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: validator, TypedConfig: typed},
	}}}, nil
}

// plainRoots says whether a client does without the SPIFFE validator: it says so, or
// is an Envoy of before 1.18, which has none.
func plainRoots(node *corev3.Node) bool {
	if v, ok := node.GetMetadata().GetFields()[noValidator]; ok {
		if off, err := strconv.ParseBool(v.GetStringValue()); err == nil {
			return off
		}
		return v.GetBoolValue()
	}
	v := node.GetUserAgentBuildVersion().GetVersion()
	return v != nil && (v.GetMajorNumber() < 1 || (v.GetMajorNumber() == 1 && v.GetMinorNumber() < 18))
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func rootsPEM(b *spiffebundle.Bundle) []byte {
	var out bytes.Buffer
	for _, c := range b.X509Authorities() {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes all
	}
	return out.Bytes()
}
