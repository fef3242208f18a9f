"""Special functions: the gamma function and its derivatives, inverse error functions, modified Bessel functions of the
first kind, and the normal distribution.

Every function takes float32 or float64 tensors (16-bit floats are computed in float32) and returns the same dtype and
shape. Errors are about 1e-15 in float64 and 5e-7 in float32, relative to the result; where a function crosses zero
away from a point treated exactly (digamma at 1.46, lgamma between negative integers), relative to 1. NaN gives NaN.
"""

from __future__ import annotations

from math import factorial

import triton
import triton.language as tl

from .arithmetic import INF, copysign, div, neg, reciprocal, round, sqrt
from .elementary import coefficients, erfc, erfcx, exp, log, log1p, polynomial

PI = tl.constexpr(3.141592653589793)
SQRT2 = tl.constexpr(1.4142135623730951)
SQRT_HALF = tl.constexpr(0.7071067811865476)

# lgamma(x) / ((x - 1) (x - 2)) in x - 2, for 1 <= x <= 3
_LGAMMA_F32 = coefficients(
    -3.63155219e-05, 7.78713189e-05, -5.90323996e-05, 0.000131388344, -0.000419005835, 0.000943640607,
    -0.00210490778, 0.00499179268, -0.012384473, 0.0329655972, -0.100317298, 0.422784327,
)  # fmt: skip
_LGAMMA_F64 = coefficients(
    -7.639292345836201e-10, 1.5746606982777302e-09, 2.0986002157033107e-09, -4.312495770350818e-09,
    -7.842557720538356e-09, 1.6194359237484174e-08, -2.7296358592514825e-09, 5.910565853507869e-09,
    -4.9827532071170234e-08, 1.042041826608264e-07, -1.878442644643758e-07, 3.958940459367468e-07,
    -8.54560908975883e-07, 1.8113906873056685e-06, -3.846858091533014e-06, 8.221234475942905e-06,
    -1.7661767658452517e-05, 3.816907658276081e-05, -8.309511477709561e-05, 0.0001825526153982638,
    -0.0004057073983775151, 0.0009153769240386907, -0.0021081308339216706, 0.004998641164627129,
    -0.012384192193371805, 0.03296500062115691, -0.10031730167435392, 0.42278433509846713,
)  # fmt: skip
# erfinv(x) / x in x^2, for |x| <= 0.5
_ERFINV_F32 = coefficients(
    0.097447091, 0.0298798021, 0.0689636794, 0.0861873736, 0.127571728, 0.232013421, 0.886226926,
)  # fmt: skip
_ERFINV_F64 = coefficients(
    0.12003690619362008, -0.09642274527103643, 0.08722866446698135, -0.0014607021070302691, 0.030910158235606017,
    0.026969129751201436, 0.03181283844468519, 0.03645513184554066, 0.042837381929296245, 0.05173125434128652,
    0.06495961849686033, 0.08655212922928228, 0.1275561753057025, 0.23201366653465413, 0.886226925452758,
)  # fmt: skip
# y / s in (s - k) / (s + k) with erfc(y) = e^(-s^2), s >= 0.83; k = 2, s <= 10.2 and k = 2.5, s <= 27.3
_TAIL_F32 = coefficients(
    0.0216188017, -0.0646472176, 0.0728962455, -0.0167291837, -0.0725385585, 0.138078254, -0.128131984,
    0.00670955908, 0.201939494, -0.423762915, 0.430917732, 0.834094157,
)  # fmt: skip
_TAIL_F64 = coefficients(
    -0.044229154531229754, 0.17383676180427585, -0.20356742425365296, -0.05922095518133199, 0.29119691783820356,
    -0.11517583987889518, -0.15635325274323986, 0.1061946086679681, 0.07545814475948526, -0.0852172971473658,
    -0.008034058180437885, 0.05139958761692977, -0.0473394950515337, 0.036300372492921784, -0.01693394723676196,
    -0.015334215879816178, 0.04819062830042109, -0.065649796060151, 0.05688622206755838, -0.0203931475972767,
    -0.0348225638773029, 0.0889408813355933, -0.11768760162136602, 0.09760029408446205, -0.018112688831624174,
    -0.11558793675274753, 0.26713234960217463, -0.3864199167947301, 0.3399305171789621, 0.877018368724765,
)  # fmt: skip
# I0(x) e^-x sqrt(x), then I1's, in 16 / x - 1, for x >= 8
_I0_F32 = coefficients(
    3.36358022e-08, 1.09102329e-07, 3.03833091e-07, 1.47547564e-06, 1.11415422e-05, 0.000136217408, 0.00336055203,
    0.402176509,
)  # fmt: skip
_I0_F64 = coefficients(
    -2.1026384897988802e-11, 3.908387942826915e-11, 1.588423350992965e-10, -3.1469409440481513e-10,
    -5.517743440732131e-10, 1.1879241078722262e-09, 1.19167453655378e-09, -2.8411410774923857e-09,
    -1.8880957563391057e-09, 4.957147335316315e-09, 2.6547902915057677e-09, -6.9145475501901456e-09,
    -4.184523888729429e-09, 7.910872177098164e-09, 7.83448429524067e-09, -5.569090680737431e-09,
    -1.348907570380097e-08, -6.7100093246245074e-09, 7.569785257070744e-09, 2.1542842690546706e-08,
    3.932406802805976e-08, 8.872268159209354e-08, 2.973599767639828e-07, 1.483847543824492e-06,
    1.1143033787275596e-05, 0.00013621607439232331, 0.0033605519836678952, 0.4021765094450081,
)  # fmt: skip
_I1_F32 = coefficients(
    -3.78560248e-08, -1.23184197e-07, -3.54819542e-07, -1.82500694e-06, -1.50370471e-05, -0.000219237385,
    -0.00974957724, 0.389398459,
)  # fmt: skip
_I1_F64 = coefficients(
    2.049305687359829e-11, -4.0657742537925194e-11, -1.5422532292995627e-10, 3.27305107356646e-10,
    5.328726890804043e-10, -1.2354940995166814e-09, -1.1425450294283331e-09, 2.956252395402678e-09,
    1.7966120145367928e-09, -5.166953168056089e-09, -2.5283003516359996e-09, 7.242384940925024e-09,
    4.0764641389321665e-09, -8.388083994966264e-09, -7.912027539817697e-09, 6.145364848384102e-09,
    1.4110780386208672e-08, 6.695302618992283e-09, -8.442156608807226e-09, -2.336817047627452e-08,
    -4.312748698582641e-08, -1.000133866120353e-07, -3.483856882241426e-07, -1.834910109811299e-06,
    -1.5038547197094254e-05, -0.00021923576383429784, -0.009749577193235768, 0.38939845902587233,
)  # fmt: skip
# I0(x) in x^2 / 4 and I1(x) / (x / 2), for x <= 8: 1 / k!^2 and 1 / (k! (k + 1)!)
_I0_SERIES = coefficients(*(1 / factorial(k) ** 2 for k in range(26, -1, -1)))
_I1_SERIES = coefficients(*(1 / (factorial(k) * factorial(k + 1)) for k in range(25, -1, -1)))
# x (lgamma(x) - (x - 1/2) log(x) + x - log(2 pi) / 2) in 1 / x^2: B_2k / (2 k (2 k - 1))
_STIRLING = coefficients(
    -3617 / 122400, 1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12,
)  # fmt: skip
# x^2 (log(x) - 1 / (2 x) - digamma(x)) in 1 / x^2: B_2k / (2 k)
_DIGAMMA = coefficients(1 / 12, -691 / 32760, 1 / 132, -1 / 240, 1 / 252, -1 / 120, 1 / 12)
# B_2k / (2 k)!, lowest first, for the formula of Euler and Maclaurin
_BERNOULLI = tl.constexpr((
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600,
    -3617 / 10670622842880000,
))  # fmt: skip


# --- gamma ---


@triton.jit
def _lgamma_positive(a):
    """log gamma(a) for a > 0: (a - 1)(a - 2) P(a - 2) on [1, 3], Stirling's series from 8 on, recurrences between."""
    c = tl.where(a < 8.0, a, 2.0)
    product = tl.where(c == c, 1.0, c)
    for _ in tl.static_range(5):
        large = c >= 3.0
        c = tl.where(large, c - 1.0, c)
        product = tl.where(large, product * c, product)
    below = c < 1.0
    first = tl.where(below, c, c - 1.0)  # both factors are exact, so that the zeros at 1 and 2 are
    second = tl.where(below, c - 1.0, c - 2.0)
    if a.dtype == tl.float64:
        p = polynomial(second, _LGAMMA_F64)
    else:
        p = polynomial(second, _LGAMMA_F32)
    step = log(tl.where(below, c, product))
    near = first * second * p + tl.where(below, neg(step), step)
    z = tl.where(a < 8.0, 8.0, a)
    inverse = reciprocal(z)
    series = inverse * polynomial(inverse * inverse, _STIRLING)
    far = (z - 0.5) * (log(z) - 1.0) + (0.4189385332046727 + series)
    return tl.where(a < 8.0, near, far)


@triton.jit
def lgamma(x):
    """log |gamma(x)|; infinite at 0, -1, -2, ... For x < 0: log(pi) - log|x| - log|sin(pi x)| - lgamma(|x|)."""
    a = tl.abs(x)
    positive = _lgamma_positive(tl.where(a == 0, 1.0, a))
    r = tl.abs(a - round(a))
    inside = (x < 0) & (r > 0)
    s = tl.where(inside, tl.sin(tl.where(inside, r, 0.5) * PI), 1.0)
    negative = (1.1447298858494002 - log(tl.where(inside, a, 1.0))) - log(s) - positive
    y = tl.where(x < 0, tl.where(inside, negative, INF), positive)
    y = tl.where((a == 0) | (a == INF), INF, y)
    return tl.where(x != x, x, y)


@triton.jit
def cot_pi(x):
    """cot(pi x)."""
    r = (x - round(x)) * PI
    return div(tl.cos(r), tl.sin(r))


@triton.jit
def digamma(x):
    """The derivative of lgamma. For x < 0: digamma(1 - x) - pi cot(pi x); NaN at -1, -2, ..., infinite at 0."""
    z = tl.where(x < 0, 1.0 - x, x)
    shifted = tl.where(z == z, 0.0, z)
    for _ in tl.static_range(10):
        small = z < 10.0
        shifted = tl.where(small, shifted + reciprocal(z), shifted)
        z = tl.where(small, z + 1.0, z)
    inverse = reciprocal(z)
    u = inverse * inverse
    y = (log(z) - 0.5 * inverse - u * polynomial(u, _DIGAMMA)) - shifted
    whole = tl.floor(x) == x
    y = tl.where(x < 0, y - cot_pi(tl.where(whole, 0.5, x)) * PI, y)
    y = tl.where((x < 0) & whole, float("nan"), y)
    y = tl.where(x == 0, copysign(tl.where(x == 0, INF, y), neg(x)), y)
    return tl.where(x == INF, INF, y)


@triton.jit
def _inverse_power(x, N: tl.constexpr):
    """x^-N."""
    inverse = reciprocal(x)
    y = inverse
    for _ in tl.static_range(N - 1):
        y = y * inverse
    return y


@triton.jit
def polygamma(x, N: tl.constexpr, FACTORIAL: tl.constexpr):
    """The Nth derivative of digamma, N >= 1, for x > 0; for x <= 0 that at 1 - x, times (-1)^N: half of the reflection.

    (-1)^(N + 1) N! zeta(N + 1, x), by the formula of Euler and Maclaurin from x + 10 + N on.
    """
    S: tl.constexpr = N + 1
    TERMS: tl.constexpr = N + 10
    w = tl.where(x > 0, x, 1.0 - x)
    total = tl.where(w == w, 0.0, w)
    for i in tl.static_range(TERMS):
        total += _inverse_power(w + i, S)
    z = w + TERMS
    power = _inverse_power(z, S)
    total += power * z * (1.0 / N) + 0.5 * power
    inverse = reciprocal(z)
    term = power * inverse * S
    for j in tl.static_range(8):
        total += term * _BERNOULLI[j]
        term = term * inverse * inverse * ((S + 2 * j + 1) * (S + 2 * j + 2))
    if N % 2 == 1:
        return total * tl.where(x > 0, FACTORIAL, -FACTORIAL)
    else:
        return total * -FACTORIAL


# --- inverse error functions, the normal distribution ---


@triton.jit
def _erfinv_centre(x):
    """erfinv(x) for |x| <= 1/2."""
    u = x * x
    if x.dtype == tl.float64:
        return x * polynomial(u, _ERFINV_F64)
    else:
        return x * polynomial(u, _ERFINV_F32)


@triton.jit
def _erfcinv_tail(q):
    """y with erfc(y) = q for 0 < q <= 1/2; infinite at 0, NaN below."""
    s = sqrt(-log(tl.where(q == 0, 0.5, q)))
    if q.dtype == tl.float64:
        y = s * polynomial((s - 2.5) / (s + 2.5), _TAIL_F64)
    else:
        y = s * polynomial(div(s - 2.0, s + 2.0), _TAIL_F32)
    return tl.where(q == 0, INF, y)


@triton.jit
def erfinv(x):
    """y with erf(y) = x; infinite at 1 and -1, NaN beyond."""
    a = tl.abs(x)
    centre = a <= 0.5
    inside = _erfinv_centre(tl.where(centre, x, 0.0))
    outside = copysign(_erfcinv_tail(tl.where(centre, 0.5, 1.0 - a)), x)
    return tl.where(centre, inside, outside)


@triton.jit
def ndtr(x):
    """The normal distribution function: erfc(-x / sqrt(2)) / 2."""
    return 0.5 * erfc(neg(x * SQRT_HALF))


@triton.jit
def ndtri(p):
    """x with ndtr(x) = p, accurate for small p; -infinity at 0, infinity at 1, NaN outside."""
    upper = p > 0.5
    q = tl.where(upper, 1.0 - p, p)
    centre = q >= 0.25
    inside = _erfinv_centre(tl.where(centre, 2.0 * p - 1.0, 0.0)) * SQRT2
    tail = _erfcinv_tail(tl.where(centre, 0.5, 2.0 * q)) * SQRT2
    return tl.where(centre, inside, tl.where(upper, tail, neg(tail)))


@triton.jit
def log_ndtr(x):
    """log(ndtr(x)): for x < -1 through erfcx, which does not underflow."""
    low = x < -1.0
    t = tl.where(low, x, -1.0)
    left = log(0.5 * erfcx(neg(t * SQRT_HALF))) - 0.5 * t * t
    right = log1p(-0.5 * erfc(tl.where(low, 0.0, x) * SQRT_HALF))
    return tl.where(x == -INF, -INF, tl.where(low, left, right))


# --- Bessel functions ---


@triton.jit
def _i0e_far(a):
    """I0(a) e^-a sqrt(a) for a >= 8."""
    t = 16.0 * reciprocal(a) - 1.0
    if a.dtype == tl.float64:
        return polynomial(t, _I0_F64)
    else:
        return polynomial(t, _I0_F32)


@triton.jit
def _i1e_far(a):
    """I1(a) e^-a sqrt(a) for a >= 8."""
    t = 16.0 * reciprocal(a) - 1.0
    if a.dtype == tl.float64:
        return polynomial(t, _I1_F64)
    else:
        return polynomial(t, _I1_F32)


@triton.jit
def i0(x):
    """The modified Bessel function of order 0; far out e^(x / 2) twice, which overflows no earlier than the result."""
    a = tl.abs(x)
    s = tl.where(a < 8.0, a, 8.0)
    near = polynomial(0.25 * s * s, _I0_SERIES)
    b = tl.where(a < 8.0, 8.0, tl.where(a > 2000.0, 2000.0, a))
    half = exp(0.5 * b)
    return tl.where(a < 8.0, near, half * div(_i0e_far(b), sqrt(b)) * half)


@triton.jit
def i0e(x):
    """e^-|x| I0(x)."""
    a = tl.abs(x)
    s = tl.where(a < 8.0, a, 8.0)
    near = exp(-s) * polynomial(0.25 * s * s, _I0_SERIES)
    b = tl.where(a < 8.0, 8.0, a)
    far = tl.where(b == INF, 0.0, div(_i0e_far(tl.where(b == INF, 8.0, b)), sqrt(b)))
    return tl.where(a < 8.0, near, far)


@triton.jit
def i1(x):
    """The modified Bessel function of order 1."""
    a = tl.abs(x)
    s = tl.where(a < 8.0, a, 8.0)
    near = 0.5 * s * polynomial(0.25 * s * s, _I1_SERIES)
    b = tl.where(a < 8.0, 8.0, tl.where(a > 2000.0, 2000.0, a))
    half = exp(0.5 * b)
    return copysign(tl.where(a < 8.0, near, half * div(_i1e_far(b), sqrt(b)) * half), x)


@triton.jit
def i1e(x):
    """e^-|x| I1(x)."""
    a = tl.abs(x)
    s = tl.where(a < 8.0, a, 8.0)
    near = exp(-s) * 0.5 * s * polynomial(0.25 * s * s, _I1_SERIES)
    b = tl.where(a < 8.0, 8.0, a)
    far = tl.where(b == INF, 0.0, div(_i1e_far(tl.where(b == INF, 8.0, b)), sqrt(b)))
    return copysign(tl.where(a < 8.0, near, far), x)
