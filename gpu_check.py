import itertools, time, logging
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import jax_cubie
print(jax.devices(), jax.__version__)
def lorenz(t, y, rho):
    a, b, c = y
    return jnp.stack([10.0 * (b - a), a * (rho - c) - b, a * b - (8 / 3) * c + 0.1*jnp.sin(t)])
names=["state","proposed_state","parameters","error","counters","stage_rhs","stage_accumulator"]
for method,dt0 in (("tsit5",None),("bosh3",None),("rk4",1e-2)):
    for dtype in ("float32","float64"):
        ref=None
        rho=jnp.linspace(0,28,1000,dtype=dtype); y0=jnp.array([1.,0.,0.],dtype); ts=jnp.linspace(0,2,11,dtype=dtype)
        combos=[()]+[(n,) for n in names]+[tuple(names),("state","error","stage_accumulator"),("error","stage_accumulator"),("stage_rhs","counters")]
        for c in combos:
            kw={f"{n}_location":"shared" for n in c}
            f=jax.jit(jax.vmap(lambda r: jax_cubie.solve(lorenz,0.,2.,y0,r,dt0=dt0,method=method,saveat=jax_cubie.SaveAt(ts=ts,t1=True),**kw)))
            s=f(rho); out=(np.asarray(s.ys),np.asarray(s.stats["num_steps"]))
            assert np.isfinite(out[0]).all()
            if ref is None: ref=out
            same=all((a==b).all() for a,b in zip(ref,out))
            if not same: print("DIFF",method,dtype,c, np.abs(ref[0]-out[0]).max())
        # batch independence
        g=jax.jit(jax.vmap(lambda r: jax_cubie.solve(lorenz,0.,2.,y0,r,dt0=dt0,method=method,saveat=jax_cubie.SaveAt(ts=ts,t1=True))))
        for k in (1,31,33):
            assert (np.asarray(g(rho[100:100+k]).ys)==ref[0][100:100+k]).all(),("batch",k)
        with jax.default_device(jax.devices("cpu")[0]):
            h=jax.jit(jax.vmap(lambda r: jax_cubie.solve(lorenz,0.,2.,y0,r,dt0=dt0,method=method,saveat=jax_cubie.SaveAt(ts=ts,t1=True))))
            o=np.asarray(h(jax.device_put(rho,jax.devices("cpu")[0])).ys)
        print(method,dtype,"ok; cpu-gpu max diff",np.abs(o-ref[0]).max(), "last", ref[0][-1,-1])
