package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	apiKeyPrefix = "ss_live_"
	apiKeyRandom = 24 // bytes, 32 characters of base64url
	// apiKeyShown is how much of a key is kept to tell keys apart.
	apiKeyShown = 16
	// touchInterval is how often at most a key's last use is written down.
	touchInterval = time.Minute
)

// Authenticate finds who an API key belongs to. A key that is malformed, unknown, revoked or expired is unauthorized
// with the same words. The key is looked up every time, so that a revocation holds at once.
func (s *Service) Authenticate(ctx context.Context, apiKey string) (Principal, error) {
	if !ValidAPIKey(apiKey) {
		return Principal{}, errAPIKey()
	}
	k, err := s.store.APIKeyByHash(ctx, sha256.Sum256([]byte(apiKey)))
	if isCode(err, sandbox.CodeNotFound) {
		return Principal{}, errAPIKey()
	}
	if err != nil {
		return Principal{}, storeError("looking up the API key", err)
	}
	now := s.now()
	if k.RevokedAt != nil || k.Expired(now) {
		return Principal{}, errAPIKey()
	}
	if s.touched.due(k, now) {
		if err := s.store.TouchAPIKey(ctx, k.ID, now); err != nil {
			s.log.WarnContext(ctx, "noting the last use of an API key", "key", k.ID, "error", err)
		}
	}
	return Principal{TeamID: k.TeamID, KeyID: k.ID}, nil
}

func errAPIKey() error {
	return sandbox.Errorf(sandbox.CodeUnauthorized, "a valid API key is needed in the X-API-Key header")
}

// GenerateAPIKey makes the text of a new key: ss_live_ and 32 characters of base64url, 192 random bits.
func GenerateAPIKey() string {
	secret := make([]byte, apiKeyRandom)
	rand.Read(secret) // crypto/rand.Read never fails; it ends the program instead
	return apiKeyPrefix + base64.RawURLEncoding.EncodeToString(secret)
}

// ValidAPIKey says whether text has the form of a key, as GenerateAPIKey makes it.
func ValidAPIKey(text string) bool {
	secret, ok := strings.CutPrefix(text, apiKeyPrefix)
	if !ok || len(secret) != base64.RawURLEncoding.EncodedLen(apiKeyRandom) || strings.ContainsAny(secret, "\r\n") {
		return false
	}
	_, err := base64.RawURLEncoding.DecodeString(secret)
	return err == nil
}

// NewAPIKey is what the store keeps of the key with the given text, which must be valid; the name is taken as it is.
// Times are kept in UTC to the microsecond; expires nil means never.
func NewAPIKey(teamID, name, text string, now time.Time, expires *time.Time) *APIKey {
	if expires != nil {
		expires = new(expires.UTC().Truncate(time.Microsecond))
	}
	return &APIKey{
		ID: sandbox.NewID(), TeamID: teamID, Name: name, Prefix: text[:apiKeyShown],
		Hash: sha256.Sum256([]byte(text)), CreatedAt: now.UTC().Truncate(time.Microsecond), ExpiresAt: expires,
	}
}

// Expired says whether the key's time is over; it is at ExpiresAt itself.
func (k *APIKey) Expired(now time.Time) bool { return k.ExpiresAt != nil && !now.Before(*k.ExpiresAt) }

// touchLog keeps the last use of a key from being written more than once in touchInterval by requests that come at
// the same time.
type touchLog struct {
	mu sync.Mutex
	at map[string]time.Time
}

func newTouchLog() *touchLog { return &touchLog{at: map[string]time.Time{}} }

// due says whether the caller is the one to write down that the key was used now.
func (l *touchLog) due(k *APIKey, now time.Time) bool {
	if k.LastUsedAt != nil && now.Sub(*k.LastUsedAt) < touchInterval {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.at[k.ID]; ok && now.Sub(last) < touchInterval {
		return false
	}
	l.at[k.ID] = now
	return true
}

// sweep drops what the store knows by now.
func (l *touchLog) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, at := range l.at {
		if now.Sub(at) >= touchInterval {
			delete(l.at, id)
		}
	}
}
